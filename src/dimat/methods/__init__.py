"""The methods, by name: a method is a value, made from settings."""

from __future__ import annotations

from collections.abc import Callable

from dimat.methods.averaging import Averaging
from dimat.methods.dimat import Dimat
from dimat.methods.local import Local
from dimat.methods.protocol import Member, Merged, Method, Settings

METHODS: dict[str, Callable[[Settings], Method]] = {
    "dimat": Dimat,
    "wa": lambda settings: Averaging(settings.mix_memory),
    "local": lambda settings: Local(),
}

__all__ = ["METHODS", "Averaging", "Dimat", "Local", "Member", "Merged", "Method", "Settings"]
