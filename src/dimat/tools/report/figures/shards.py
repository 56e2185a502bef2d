"""Figures of the shards: images of each class at each agent."""

from __future__ import annotations

from dimat.tools.records.run import Matrix, Shards
from dimat.tools.report.compared import Compared
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
from dimat.tools.report.groups import distinct

_MOST_NUMBERED = 12  # largest number of rows and columns with room for a number in each cell


def shards(compared: Compared) -> Panel | None:
    """The panel of images of each class at each agent; None if they were not recorded.

    Args:
        compared: Content of the report.
    """
    found = [
        (label, one)
        for label, one in distinct(compared, lambda run: run.shards)
        if len(one.classes) > 1  # a task without classes counts samples alone
    ]
    if not found:
        return None
    two = any(_phases(one)[1:] for _, one in found)
    sides = " Left (or above): in pre-training; right (or below): in the rounds after it."
    return Panel(
        "shards",
        "Images of every class",
        "Every row is an agent, every column a class, and the color is how many training images of "
        f"it the agent has; a hole is none.{sides if two else ''}",
        tuple(Choice(label, tuple(_figures(one))) for label, one in found),
        control="runs",
    )


def _phases(found: Shards) -> list[tuple[str, Matrix]]:
    """The counts of pre-training and rounds, each with a label; one if they are equal."""
    if not (found.pretrain and found.rounds) or found.pretrain == found.rounds:
        return [("in all rounds", found.rounds or found.pretrain)]
    return [("in pre-training", found.pretrain), ("after it", found.rounds)]


def _figures(found: Shards) -> list[Figure]:
    most = max((x for _, counts in _phases(found) for row in counts for x in row), default=1)
    return [_figure(found, when, counts, most) for when, counts in _phases(found)]


def _figure(found: Shards, when: str, counts: Matrix, most: float) -> Figure:
    agents = list(range(len(counts)))
    classes = [text(name) for name in found.classes]
    few = len(agents) <= _MOST_NUMBERED and len(found.classes) <= _MOST_NUMBERED
    trace = heatmap(
        [[x or None for x in row] for row in counts],
        classes,
        agents,
        hover="agent %{y}, class %{x}: %{z} images",
        bar="Images",
        zmin=0,
        zmax=most,
        **({"texttemplate": "%{z}"} if few else {}),
    )
    x, y = cells(f"Class, {when}", classes), cells("Agent", autorange="reversed")
    room = 7 * min(LONG, max(map(len, found.classes), default=0))  # for rotated names
    return plot([trace], x, y, height=150 + room + 24 * max(5, min(len(agents), 24)))
