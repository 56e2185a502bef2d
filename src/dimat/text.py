"""Values as text: the ``repr`` of a dataclass in a line, a number and what it counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

_LONGEST = 80  # letters of a part of a brief repr


def brief(self: Any) -> str:
    """The ``repr`` of a dataclass in a line or two, whatever it holds: what is large is counted.

    A class takes it by ``__repr__ = brief``.
    """
    own = ", ".join(f"{field.name}={_counted(getattr(self, field.name))}" for field in fields(self))
    return f"{type(self).__name__}({own})"


def counted(n: int, word: str) -> str:
    """A number and what it counts.

    >>> counted(1, "round"), counted(2, "round")
    ('1 round', '2 rounds')
    """
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _counted(value: object) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):  # a tensor or an array
        return f"<{value.dtype} of {'x'.join(map(str, value.shape)) or 'no axes'}>"
    if isinstance(value, Mapping) and value and all(hasattr(x, "numel") for x in value.values()):
        return f"<{len(value)} tensors, {sum(x.numel() for x in value.values()):,} numbers>"
    if isinstance(value, Collection) and not isinstance(value, str) and value:
        kind = type(next(iter(value))).__name__
        return f"<{len(value)} entries>" if isinstance(value, Mapping) else f"<{len(value)} {kind}>"
    text = repr(value)
    if isinstance(value, str) and len(text) > _LONGEST:
        return f"{text[:_LONGEST]}…"
    plain = len(text) <= _LONGEST and "\n" not in text and " at 0x" not in text
    return text if plain else f"<{type(value).__name__}>"
