"""The methods, by name: a method is a value, made from the settings of matching."""

from __future__ import annotations

from collections.abc import Callable

from dimat.methods.averaging import Averaging
from dimat.methods.dimat import Dimat
from dimat.methods.local import Local
from dimat.methods.protocol import Member, Merged, Method

# Each takes (gauge, sweeps, every) of the matching settings.
METHODS: dict[str, Callable[[str, int, int], Method]] = {
    "dimat": Dimat,
    "wa": lambda gauge, sweeps, every: Averaging(),
    "local": lambda gauge, sweeps, every: Local(),
}

__all__ = ["METHODS", "Averaging", "Dimat", "Local", "Member", "Merged", "Method"]
