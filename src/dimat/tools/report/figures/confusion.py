"""Figure of the confusion of classes, and the pairs that are confused most."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.tools.records.run import Matrix
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.figures.classes import AFTER, MOST, MOST_NUMBERED, counted, percent
from dimat.tools.report.figures.figure import (
    LONG,
    Choice,
    Figure,
    Panel,
    cells,
    heatmap,
    plot,
    text,
)

_PAIRS = 10  # rows of the table, for a series


@dataclass(frozen=True)
class Pair:
    """A class that is often taken for another.

    Args:
        label: Label of the series.
        true: Name of the class.
        taken: Name of the class that it is taken for.
        share: Share of the class's test samples, all agents and seeds together.
    """

    label: str
    true: str
    taken: str
    share: float


def confusions(compared: Compared) -> Panel | None:
    """The panel of confusion, of up to 100 classes; None if it was not recorded.

    Args:
        compared: Content of the report.
    """
    choices = [
        Choice(f"{series.label}, after {after}", (_confusion(series, counts),))
        for series in compared.series
        for after, counts in [_counts(series)]
        if 0 < len(counts) <= MOST
    ]
    if not choices:
        return None
    return Panel(
        "confusion",
        "What is taken for what",
        "Every row is a class, every column what its test samples are taken for in the last round, "
        "in percent of the row, all agents and finished seeds together; a hole is none.",
        tuple(choices),
    )


def worst_pairs(compared: Compared) -> list[Pair]:
    """The pairs of classes that are confused most, of series with more than 100 classes.

    Args:
        compared: Content of the report.
    """
    return [
        pair
        for series in compared.series
        for after, counts in [_counts(series)]
        if len(counts) > MOST
        for pair in _worst(series, after, counts)
    ]


def _counts(series: Series) -> tuple[str, Matrix]:
    """The counts after the last merge, else after the last training, of all finished seeds."""
    for phase, after in AFTER.items():
        known = [(run.confusion.get(phase, ()), run) for run in counted(series)]
        found = [counts for counts, run in known if len(counts) == len(run.class_names)]
        if found:
            rows = zip(*found, strict=True)
            return after, tuple(tuple(map(sum, zip(*each, strict=True))) for each in rows)
    return "", ()


def _confusion(series: Series, counts: Matrix) -> Figure:
    names = [text(name) for name in counted(series)[0].class_names]
    z = [[percent(x / sum(row)) if x else None for x in row] for row in counts]
    few = len(names) <= MOST_NUMBERED
    trace = heatmap(
        z,
        names,
        names,
        hover="%{y} taken for %{x}: %{z:.1f} %",
        bar="Share (%)",
        zmin=0,
        zmax=100,
        **({"texttemplate": "%{z:.0f}"} if few else {}),
    )
    x, y = cells("Taken for", names), cells("Class", names, autorange="reversed")
    room = 7 * min(LONG, max(map(len, names), default=0))
    return plot([trace], x, y, height=150 + room + (24 if few else 12) * max(8, len(names)))


def _worst(series: Series, after: str, counts: Matrix) -> list[Pair]:
    names = counted(series)[0].class_names
    found = [
        (count / sum(row), i, j)
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if count and i != j
    ]
    label = f"{series.label}, after {after}"
    worst = sorted(found, key=lambda own: (-own[0], own[1:]))[:_PAIRS]
    return [Pair(label, names[i], names[j], share) for share, i, j in worst]
