"""Figures of classes: recall by round, what a merge gained and lost, and confusion."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dimat.tools.records.run import Matrix, Recall, Run
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.figures.figure import (
    LONG,
    Choice,
    Figure,
    Panel,
    cells,
    heatmap,
    plot,
    round_axis,
    text,
)

MOST = 100  # classes that a figure has room for
_MOST_ROUNDS = 60
_MOST_NUMBERED = 12
_PAIRS = 10  # rows of the table, for a series
_GAINS = [[0, "#D55E00"], [0.5, "#f3f3f3"], [1, "#0072B2"]]  # losses orange, gains blue
_Row = Sequence[float | None]


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


def recalls(compared: Compared) -> Panel | None:
    """The panel of recall by class and round; None if it was not recorded.

    Args:
        compared: Content of the report.
    """
    found = [(x, figure) for x in compared.series if (figure := _by_round(x))]
    if not found:
        return None
    return Panel(
        "recall",
        "Recall of every class",
        "Every row is a class, every column a round: the share of its test samples that agents "
        "take for it, mean over agents and finished seeds, right after the merge that begins the "
        f"round (of methods that do not merge then: after its training).{_left_out(compared)}",
        tuple(Choice(series.label, (figure,)) for series, figure in found),
    )


def gains(compared: Compared) -> Panel | None:
    """The panel of what the last merge changed by class and agent; None if it is not known.

    Args:
        compared: Content of the report.
    """
    choices = [
        Choice(f"{series.label}, seed {run.seed}", (figure,))
        for series in compared.series
        for run in series.shown
        if (figure := _gain(run))
    ]
    if not choices:
        return None
    return Panel(
        "gains",
        "Where the last merge gained and lost",
        "Every row is an agent, every column a class: its recall right after the last merge less "
        "that right before it, after the training of the round before, in percentage points. Blue: "
        f"gained; orange: lost; a hole: no test samples.{_left_out(compared)}",
        tuple(choices),
        control="run",
    )


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


def _left_out(compared: Compared) -> str:
    """The sentence of a caption on classes that a figure has no room for."""
    most = max((len(run.class_names) for run in compared.runs), default=0)
    return f" Of {most} classes, the {MOST} with the lowest recall at the end." * (most > MOST)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def _rounds(run: Run) -> dict[int, list[Recall]]:
    """The recalls of each round, after its first phase, as the accuracy of a round is."""
    found: dict[int, list[Recall]] = {}
    for own in run.recalls:
        known = found.setdefault(own.round, [])
        if not known or known[0].phase == own.phase:
            known.append(own)
    return found


def _by_class(recalls: Sequence[Recall]) -> list[float | None]:
    """The mean recall of each class over agents."""
    return [_mean(column) for column in zip(*(own.values for own in recalls), strict=True)]


def _chosen(last: _Row) -> list[int]:
    """The classes that there is room for: all of up to 100, else those of the lowest recall."""
    known = sorted((own, i) for i, own in enumerate(last) if own is not None)
    return [*range(len(last))] if len(last) <= MOST else sorted(i for _, i in known[:MOST])


def _by_round(series: Series) -> Figure | None:
    runs = [_rounds(run) for run in _counted(series)]
    common = sorted(set.intersection(*(set(own) for own in runs))) if runs else []
    if not common:
        return None
    step = -(-len(common) // _MOST_ROUNDS)
    shown = common[::-1][::step][::-1]  # the last one is always there
    columns = [
        [_mean(each) for each in zip(*(_by_class(own[number]) for own in runs), strict=True)]
        for number in shown
    ]
    chosen = _chosen(columns[-1])
    names = [text(name) for name in _counted(series)[0].class_names]
    labels = [names[i] for i in chosen]
    z = [[_percent(column[i]) for column in columns] for i in chosen]
    hover = "round %{x}, class %{y}: %{z:.1f} %"
    trace = heatmap(z, shown, labels, hover=hover, bar="Recall (%)", zmin=0, zmax=100)
    y = cells("Class", labels, autorange="reversed")
    height = 160 + (22 if len(labels) <= 30 else 14) * max(4, len(labels))
    return plot([trace], round_axis([trace]) | {"showgrid": False}, y, height=height)


def _counted(series: Series) -> list[Run]:
    """The runs of a series whose recalls are recorded, of the same classes as those of the first.

    The file that a source names may have become another one between two runs.
    """
    found = [run for run in series.shown if run.recalls]
    return [run for run in found if run.class_names == found[0].class_names]


def _gain(run: Run) -> Figure | None:
    merged = [own for own in run.recalls if own.phase == "merged"]
    number = merged[-1].round if merged else 0
    after = {own.agent: own for own in merged if own.round == number}
    before = {
        own.agent: own
        for own in run.recalls
        if own.round == number - 1 and own.phase == "trained" and own.agent in after
    }
    if not before:
        return None
    rows = [
        [None if a is None or b is None else a - b for a, b in zip(x, y, strict=True)]
        for x, y in ((after[agent].values, before[agent].values) for agent in before)
    ]
    chosen = _chosen(_by_class([*after.values()]))
    names = [text(name) for name in run.class_names]
    labels, agents = [names[i] for i in chosen], [*before]
    few = max(len(labels), len(agents)) <= _MOST_NUMBERED
    z = [[_percent(row[i]) for i in chosen] for row in rows]
    most = max((abs(own) for row in z for own in row if own is not None), default=0) or 1
    trace = heatmap(
        z,
        labels,
        agents,
        hover="agent %{y}, class %{x}: %{z:+.1f} points",
        bar="Gain (points)",
        zmin=-most,
        zmax=most,
        colorscale=_GAINS,
        **({"texttemplate": "%{z:+.0f}"} if few else {}),
    )
    x = cells(f"Class, merge of round {number}", labels)
    y = cells("Agent", autorange="reversed")
    room = 7 * min(LONG, max(map(len, labels), default=0))  # for rotated names
    return plot([trace], x, y, height=150 + room + 24 * max(5, min(len(agents), 24)))


def _counts(series: Series) -> tuple[str, Matrix]:
    """The counts after the last merge, else after the last training, of all finished seeds."""
    for phase, after in (("merged", "merging"), ("trained", "training")):
        known = [(run.confusion.get(phase, ()), run) for run in _counted(series)]
        found = [counts for counts, run in known if len(counts) == len(run.class_names)]
        if found:
            rows = zip(*found, strict=True)
            return after, tuple(tuple(map(sum, zip(*each, strict=True))) for each in rows)
    return "", ()


def _confusion(series: Series, counts: Matrix) -> Figure:
    names = [text(name) for name in _counted(series)[0].class_names]
    z = [[_percent(x / sum(row)) if x else None for x in row] for row in counts]
    few = len(names) <= _MOST_NUMBERED
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
    names = _counted(series)[0].class_names
    found = [
        (count / sum(row), i, j)
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if count and i != j
    ]
    label = f"{series.label}, after {after}"
    worst = sorted(found, key=lambda own: (-own[0], own[1:]))[:_PAIRS]
    return [Pair(label, names[i], names[j], share) for share, i, j in worst]
