"""What two agents must have alike before they talk, and what differs if they have not."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from dimat.errors import StructureError, shown

_MOST_NAMES = 20  # of what differs: our own come first
_MOST_VALUE = 80  # characters of a value: several that differ are to be read


def check_terms(ours: Mapping[str, str], theirs: Any, who: str) -> None:
    """Refuse an agent whose settings, graph or model are not ours.

    Args:
        ours: Each as short text, its digest, or a list of one a line, by name.
        theirs: What the other one says.
        who: The other one, for the message.

    Raises:
        StructureError: Naming what differs, with both values; of a list the first line.

    >>> check_terms({"rounds": "20", "model": "mlp"}, {"rounds": "30", "model": "mlp"}, "agent 3")
    Traceback (most recent call last):
        ...
    dimat.errors.StructureError: agent 3 has other settings: 'rounds' is 30 there and 20 here
    """
    if not isinstance(theirs, Mapping):
        raise StructureError(f"{who} does not say what its settings are")
    names = [name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)]
    if names:
        first = sorted(names, key=lambda name: (name not in ours, name))[:_MOST_NAMES]
        each = ", ".join(_differs(name, theirs.get(name), ours.get(name)) for name in first)
        raise StructureError(f"{who} has other settings: {shown(each)}")


def _differs(name: str, theirs: Any, ours: Any) -> str:
    if isinstance(theirs, str) and isinstance(ours, str) and "\n" in theirs + ours:
        lines = zip_longest(theirs.split("\n"), ours.split("\n"), fillvalue="nothing more")
        theirs, ours = next((a, b) for a, b in lines if a != b)
    there, here = (shown(value, _MOST_VALUE) for value in (theirs, ours))
    return f"'{shown(name, _MOST_VALUE)}' is {there} there and {here} here"
