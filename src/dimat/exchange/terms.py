"""What two agents must have alike before they talk, and what differs if they have not."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from dimat.errors import StructureError


def check_terms(ours: Mapping[str, str], theirs: Any, who: str) -> None:
    """Refuse an agent whose settings, graph or model are not ours.

    Args:
        ours: Each as short text, its digest, or a list of one a line, by name.
        theirs: What the other one says.
        who: The other one, for the message.

    Raises:
        StructureError: Naming all that differs, with both values; of a list the first line.

    >>> check_terms({"rounds": "20", "model": "mlp"}, {"rounds": "30", "model": "mlp"}, "agent 3")
    Traceback (most recent call last):
        ...
    dimat.errors.StructureError: agent 3 has other settings: 'rounds' is 30 there and 20 here
    """
    if not isinstance(theirs, Mapping):
        raise StructureError(f"{who} does not say what its settings are")
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if names:
        each = ", ".join(_differs(n, theirs.get(n), ours.get(n)) for n in names)
        raise StructureError(f"{who} has other settings: {each}")


def _differs(name: str, theirs: Any, ours: Any) -> str:
    if isinstance(theirs, str) and isinstance(ours, str) and "\n" in theirs + ours:
        lines = zip_longest(theirs.split("\n"), ours.split("\n"), fillvalue="nothing more")
        theirs, ours = next((a, b) for a, b in lines if a != b)
    return f"'{name}' is {theirs} there and {ours} here"
