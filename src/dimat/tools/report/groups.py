"""What several runs have in common, shown once: a graph, a way the images were dealt out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from dimat.tools.records.run import Run
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.words import listed

_Value = TypeVar("_Value", bound=Hashable)


def distinct(compared: Compared, value: Callable[[Run], _Value | None]) -> list[tuple[str, _Value]]:
    """Every different value with a label that says which runs have it, in the order they are met.

    Args:
        compared: All runs.
        value: Of a run; None if it has none.
    """
    found: dict[_Value, list[tuple[Series, Run]]] = {}
    for series in compared.series:
        for run in series.runs:
            if (has := value(run)) is not None:
                found.setdefault(has, []).append((series, run))
    everyone = [owner for owners in found.values() for owner in owners]
    return [(_label(owners, everyone), has) for has, owners in found.items()]


def _label(owners: Sequence[tuple[Series, Run]], everyone: Sequence[tuple[Series, Run]]) -> str:
    """The settings, methods and seeds of some of the runs, as far as they are not those of all."""
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
