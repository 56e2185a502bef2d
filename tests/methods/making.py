"""Methods by name, given those of some parameters that they have."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from dimat.methods import METHODS, Method


def made(name: str, **parameters: Any) -> Method:
    """The method of that name; what it has no parameter for is left out."""
    kind = METHODS[name]
    known = {own.name for own in fields(kind)}
    return kind(**{key: value for key, value in parameters.items() if key in known})
