"""The methods whose cost can be foreseen: those that say it beside what they do."""

from __future__ import annotations

from dimat.errors import ConfigError
from dimat.methods import Method


def check_foreseen(name: str, method: Method) -> None:
    """Refuse a method that does not say what it costs.

    Raises:
        ConfigError: Naming it, and how its cost is measured instead.
    """
    if not is_foreseen(method):
        raise ConfigError(
            f"method '{name}' is not one of dimat's own, and what it exchanges cannot be foreseen: "
            f"run it for two rounds (method '{name}', rounds 2) and read sent_bytes, busy_s and "
            "the seconds of every phase in metrics.jsonl, or estimate one that exchanges alike"
        )


def is_foreseen(method: Method) -> bool:
    """Whether the class that says what a method does, or a class made of it, says what it costs."""
    does, says = ("step", "sends") if method.exchanges == "steps" else ("merge", "meetings")
    other = "merge" if does == "step" else "step"
    if not _defines(method, Method, other):
        return False
    if method.exchanges == "never":
        return _defines(method, Method, does)
    return not _defines(method, Method, says) and _depth(method, says) <= _depth(method, does)


def _defines(method: Method, kind: type, name: str) -> bool:
    return type(method).__mro__[_depth(method, name)] is kind


def _depth(method: Method, name: str) -> int:
    """How far up the bases of a method's class the one is that defines an attribute."""
    return next(k for k, kind in enumerate(type(method).__mro__) if name in vars(kind))
