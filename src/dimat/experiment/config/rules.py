"""Rules that the type of a setting has for its values, and the error for a value that breaks one.

``Annotated[float, Range(gt=0, le=1)] | None`` is a type with a rule. A rule is a :class:`Range`, or
a function of a setting's name and value that raises the error itself. Every error that says what a
setting must be is made by :func:`broken_rule`.
"""

from __future__ import annotations

import difflib
import operator
from dataclasses import dataclass
from functools import reduce
from types import GenericAlias, NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from dimat.errors import ConfigError, quoted

_PLAIN = (str, int, float, list, tuple, dict, NoneType)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_LONGEST = 120  # characters of a value in a message


@dataclass(frozen=True, kw_only=True)
class Range:
    """Interval of numbers; its text is the rule for a number in it.

    Args:
        gt: Lower end, itself outside.
        ge: Lower end, itself inside.
        lt: Upper end, itself outside; infinity asks for a finite number.
        le: Upper end, itself inside.
        why: Reason for the end, for the message.
        slip: Whether only a slip of the hand goes past the end, so that help leaves it out.

    >>> str(Range(ge=1)), str(Range(gt=0, le=1)), str(Range(gt=0, lt=float("inf")))
    ('>= 1', 'in (0, 1]', '> 0 and finite')
    >>> str(Range(gt=-float("inf"), lt=float("inf")))
    'finite'
    >>> 0 in Range(gt=0), 5000 in Range(le=5000), float("nan") in Range(ge=0)
    (False, True, False)
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    why: str = ""
    slip: bool = False

    def __contains__(self, value: float) -> bool:
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        low = _end("> ", self.gt) or _end(">= ", self.ge)
        high = _end("< ", self.lt) or _end("<= ", self.le)
        if high == "< inf":
            return "finite" if low == "> -inf" else f"{low} and finite"
        if not low or not high:
            return low or high
        ends = f"{low.split()[1]}, {high.split()[1]}"
        return f"in {'(' if self.ge is None else '['}{ends}{')' if self.le is None else ']'}"


def _end(sign: str, end: float | None) -> str:
    """One end of a range in words; empty if there is none.

    >>> _end("<= ", 5000), _end("< ", 2**63), _end("<= ", 1e38)
    ('<= 5,000', '< 2^63', '<= 1e+38')
    """
    if end is None:
        return ""
    if isinstance(end, int) and end > 10**12:
        return f"{sign}2^{end.bit_length() - 1}"
    return f"{sign}{end:,}" if end < 10**12 else f"{sign}{end:g}"


def without_rules(kind: Any) -> Any:
    """The type that is left when all rules are taken out of it.

    >>> without_rules(Annotated[int, Range(ge=1)] | None)
    int | None
    """
    if get_origin(kind) is Annotated:
        return get_args(kind)[0]
    if NoneType in get_args(kind):
        return reduce(operator.or_, map(without_rules, get_args(kind)))
    if get_origin(kind) is tuple:
        return GenericAlias(tuple, (without_rules(get_args(kind)[0]), ...))
    return kind


def rules_in(kind: object) -> list[Any]:
    """All rules of a type, those of its parts included."""
    inside = [rule for part in get_args(kind) for rule in rules_in(part)]
    return [*getattr(kind, "__metadata__", ()), *inside]


def rule_of(kind: object) -> str:
    """The values of a type, in words.

    >>> rule_of(int | None), rule_of(Literal["batch", "group"])
    ('a whole number or null', "'batch' or 'group'")
    >>> rule_of(tuple[int, ...])
    'whole numbers with commas between, such as 2,3'
    """
    kind = without_rules(kind)
    if get_origin(kind) is Literal:
        return " or ".join(f"'{choice}'" for choice in get_args(kind))
    if NoneType in get_args(kind):
        return " or ".join(rule_of(k) for k in get_args(kind) if k is not NoneType) + " or null"
    if isinstance(kind, type) and kind in _WORDS:
        return _WORDS[kind]
    if get_args(kind)[:1] == (int,):
        return "whole numbers with commas between, such as 2,3"
    return "a list, such as a,b, or none"


def range_of(kind: object) -> str:
    """The range of a type, in words; empty if it has none.

    >>> range_of(Annotated[int, Range(ge=1), Range(le=9, why="as it is")] | None)
    '>= 1 and <= 9, or null'
    """
    ranges = [rule for rule in rules_in(kind) if isinstance(rule, Range) and not rule.slip]
    return " and ".join(map(str, ranges)) + _or_null(kind) if ranges else ""


def with_range(text: str, kind: object) -> str:
    """Help of an option, with the range of its type.

    >>> with_range("Epochs.", Annotated[int, Range(ge=1)]), with_range("Text.", str)
    ('Epochs. Must be >= 1.', 'Text.')
    """
    return f"{text} Must be {rule}." if (rule := range_of(kind)) else text


def _or_null(kind: object) -> str:
    return ", or null" if NoneType in get_args(kind) else ""


def check(name: str, value: Any, kind: Any) -> None:
    """Refuse a value that is not of a type, or breaks one of its rules; a list, in any part.

    Raises:
        ConfigError: With the first rule that is broken.

    >>> check("agents", 6000, Annotated[int, Range(ge=1), Range(le=5000)])
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: setting 'agents' is 6000: must be <= 5,000
    """
    if not _is_a(value, without_rules(kind)):
        raise wrong_type(name, value, kind)
    for part in value if isinstance(value, tuple) else (value,):
        for rule in rules_in(kind) if part is not None else ():
            if not isinstance(rule, Range):
                rule(name, part)
            elif part not in rule:
                why = rule.why and f", {rule.why}"
                raise broken_rule(name, part, f"{rule}{_or_null(kind)}{why}")


def _is_a(value: object, kind: Any) -> bool:
    """Whether ``value`` has the type ``kind``; an int may stand for a float, no bool for an int."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if NoneType in get_args(kind):
        return value is None or any(_is_a(value, part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_a(own, get_args(kind)[0]) for own in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def broken_rule(name: str, value: object, rule: str) -> ConfigError:
    """The error for a setting whose ``value`` breaks a ``rule``.

    >>> broken_rule("agents", 0, ">= 1")
    ConfigError("setting 'agents' is 0: must be >= 1")
    """
    return ConfigError(f"setting '{name}' is {_shown(value)}: must be {rule}")


def wrong_type(name: str, value: object, kind: object) -> ConfigError:
    """The error for a setting whose value is not of the type ``kind``."""
    choices = [str(choice) for choice in get_args(without_rules(kind))]
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return broken_rule(name, value, rule_of(kind) + hint)


def _shown(value: object) -> str:
    """The text of a value in a message: of a long one the beginning, of an object its type."""
    if not isinstance(value, _PLAIN):
        return quoted(value)
    try:
        text = "null" if value is None else repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
