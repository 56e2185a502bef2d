"""Figures of the recall of every class: by round, what a merge changed, and of two series."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from dimat.tools.records.run import Recall, Run
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.figures.figure import (
    LONG,
    Choice,
    Figure,
    Panel,
    axis,
    cells,
    heatmap,
    plot,
    round_axis,
    text,
)

MOST = 100  # classes that a figure has room for
_MOST_ROUNDS = 60
MOST_NUMBERED = 12
_GAINS = [[0, "#D55E00"], [0.5, "#f3f3f3"], [1, "#0072B2"]]  # losses orange, gains blue
AFTER = {"merged": "merging", "trained": "training"}
_Row = Sequence[float | None]


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


def class_differences(compared: Compared) -> Panel | None:
    """The panel of the recall of two series by class; None of others, or if it was not recorded.

    Args:
        compared: Content of the report.
    """
    if len(compared.series) != 2:
        return None
    first, second = compared.series
    choices = [
        Choice(f"after {after}", (figure,))
        for phase, after in AFTER.items()
        if (figure := _difference(_at_end(first, phase), _at_end(second, phase)))
    ]
    if not choices:
        return None
    return Panel(
        "class-differences",
        "Difference of every class",
        f"Recall of every class in the last round of {second.label} less that of {first.label}, in "
        "percentage points, mean over agents and finished seeds."
        + f" Of more than {MOST} classes, those that differ most."
        * _many(compared),
        tuple(choices),
    )


def _many(compared: Compared) -> bool:
    return any(len(run.class_names) > MOST for run in compared.runs)


def _left_out(compared: Compared) -> str:
    """The sentence of a caption on classes that a figure has no room for."""
    most = max((len(run.class_names) for run in compared.runs), default=0)
    return f" Of {most} classes, the {MOST} with the lowest recall at the end." * (most > MOST)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def percent(value: float | None) -> float | None:
    """A fraction in percent, with one digit after the point.

    Args:
        value: The fraction, or None.
    """
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
    runs = [_rounds(run) for run in counted(series)]
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
    names = [text(name) for name in counted(series)[0].class_names]
    labels = [names[i] for i in chosen]
    z = [[percent(column[i]) for column in columns] for i in chosen]
    hover = "round %{x}, class %{y}: %{z:.1f} %"
    trace = heatmap(z, shown, labels, hover=hover, bar="Recall (%)", zmin=0, zmax=100)
    y = cells("Class", labels, autorange="reversed")
    height = 160 + (22 if len(labels) <= 30 else 14) * max(4, len(labels))
    return plot([trace], round_axis([trace]) | {"showgrid": False}, y, height=height)


def counted(series: Series) -> list[Run]:
    """The runs of a series whose recalls are recorded, of the same classes as those of the first.

    The file that a source names may have become another one between two runs.

    Args:
        series: The series.
    """
    found = [run for run in series.shown if run.recalls]
    return [run for run in found if run.class_names == found[0].class_names]


def _at_end(series: Series, phase: str) -> dict[str, float]:
    """The recall of each class, by name, after a phase of the last round that has it."""
    runs = counted(series)
    found = [own for run in runs for own in _last(run, phase)]
    means = _by_class(found) if found else []
    names = runs[0].class_names if means else ()
    return {x: own for x, own in zip(names, means, strict=True) if own is not None}


def _last(run: Run, phase: str) -> list[Recall]:
    found = [own for own in run.recalls if own.phase == phase]
    return [own for own in found if own.round == found[-1].round]


def _difference(first: Mapping[str, float], second: Mapping[str, float]) -> Figure | None:
    """A bar for each class that both have."""
    found = {name: second[name] - own for name, own in first.items() if name in second}
    if not found:
        return None
    most = {*sorted(found, key=lambda name: -abs(found[name]))[:MOST]}
    chosen = {text(name): round(100 * own, 1) for name, own in found.items() if name in most}
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [*chosen],
        "x": [*chosen.values()],
        "marker": {"color": [_GAINS[2 if own > 0 else 0][1] for own in chosen.values()]},
        "hovertemplate": "class %{y}: %{x:+.1f} points<extra></extra>",
    }
    y = cells("Class", [*chosen], autorange="reversed")
    height = 120 + (22 if len(chosen) <= 30 else 14) * max(4, len(chosen))
    return plot([bars], axis("Difference of recall (percentage points)"), y, height=height)


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
    few = max(len(labels), len(agents)) <= MOST_NUMBERED
    z = [[percent(row[i]) for i in chosen] for row in rows]
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
