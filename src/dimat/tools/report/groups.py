"""Values that several runs have in common, such as a graph or shards, each to be shown once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from dimat.tools.records.run import Run
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.words import listed

_Value = TypeVar("_Value", bound=Hashable)


def distinct(compared: Compared, value: Callable[[Run], _Value | None]) -> list[tuple[str, _Value]]:
    """Every different value of the runs with a label of those that have it, as they first occur.

    Args:
        compared: Content of the report.
        value: Gives the value of a run; None for a run without one.
    """
    found: dict[_Value, list[tuple[Series, Run]]] = {}
    for series in compared.series:
        for run in series.runs:
            if (has := value(run)) is not None:
                found.setdefault(has, []).append((series, run))
    everyone = [owner for owners in found.values() for owner in owners]
    return [(_label(owners, everyone), has) for has, owners in found.items()]


def _label(owners: Sequence[tuple[Series, Run]], everyone: Sequence[tuple[Series, Run]]) -> str:
    """The settings, methods and seeds of some of the runs, as far as not all runs have them."""
    aspects: list[tuple[str, Callable[[tuple[Series, Run]], str]]] = [
        ("", lambda owner: owner[0].label.partition(" · ")[2]),
        ("", lambda owner: owner[0].method),
        ("seed ", lambda owner: str(owner[1].seed)),
    ]
    parts = []
    for word, aspect in aspects:
        own, all_of_them = (list(dict.fromkeys(map(aspect, x))) for x in (owners, everyone))
        if len(own) < len(all_of_them):
            parts.append(word + listed(own))
    return ", ".join(parts) or "all runs"
