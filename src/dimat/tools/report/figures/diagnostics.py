"""Figures of diagnostics: consensus distance and the like, and matched units by group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dimat.tools.records.run import Diagnosis, Run
from dimat.tools.report.bands import Track, band
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.figures.figure import (
    Choice,
    Figure,
    Panel,
    Trace,
    axis,
    cells,
    heatmap,
    plot,
    round_axis,
    text,
)
from dimat.tools.report.figures.lines import line_of, series_lines
from dimat.tools.report.style import Style, style_of

_Value = Callable[[Diagnosis], float | None]

_SCALARS: tuple[tuple[str, str, _Value], ...] = (
    ("contraction", "Distance after a merge / before it", lambda x: x.numbers.get("contraction")),
    ("loss barrier", "Loss barrier between agents", lambda x: x.numbers.get("barrier")),
    ("spectral gap", "Spectral gap of the mixing matrix", lambda x: x.numbers.get("spectral_gap")),
    ("permuted spectral gap", "Spectral gap, permuted", lambda x: x.numbers.get("permuted_gap")),
    ("cycle error, edges", "Cycle error over edges", lambda x: _cycle(x, "edges")),
    ("cycle error, cycles", "Cycle error around cycles", lambda x: _cycle(x, "cycles")),
)
_UNITS = (
    ("units_moved", "units moved", "Share of units", 100.0, "%{z:.1f} % moved"),
    ("similarity", "similarity", "Similarity", 1.0, "similarity %{z:.3f}"),
    ("margin", "margin", "Margin", 1.0, "margin %{z:.3f}"),
)


def consensus(compared: Compared) -> Panel | None:
    """The panel of consensus distance and other single numbers by round; None without any.

    Args:
        compared: Content of the report.
    """
    choices = [choice for choice in (_distance(compared),) if choice]
    for label, title, value in _SCALARS:
        if lines := series_lines(compared, _track(value), "%{y:.3~g}"):
            figure = plot(lines, round_axis(lines), axis(title))
            choices.append(Choice(label, (figure,)))
    if not choices:
        return None
    return Panel(
        "consensus",
        "How far the agents are apart",
        "Consensus distance is the root mean squared distance of the agents' parameters from "
        "their mean, here averaged over the finished seeds. A merge takes it down at once, a "
        "vertical drop to a marker; training takes it up again. Of methods that exchange while "
        "they train there is only the end of a round.",
        tuple(choices),
        legend=True,
    )


def units(compared: Compared) -> Panel | None:
    """The panel of units moved, similarity and margin by group and round; None without any.

    Args:
        compared: Content of the report.
    """
    choices = [
        Choice(f"{series.label}: {label}", (figure,))
        for series in compared.series
        for name, label, bar, scale, hover in _UNITS
        if (figure := _by_group(series, name, f"{bar} (%)" if scale > 1 else bar, scale, hover))
    ]
    if not choices:
        return None
    return Panel(
        "units",
        "Units that matching moved",
        "Every row is a group of units that are permuted together, every column a round, mean "
        "over the finished seeds; a hole is a round without matching. Units moved: the share that "
        "matching put in another place. "
        "Similarity: how alike matched units are. Margin: their lead over the next best match.",
        tuple(choices),
    )


def _cycle(diagnosis: Diagnosis, name: str) -> float | None:
    return diagnosis.groups.get("cycle_error", {}).get(name)


def _track(value: _Value) -> Callable[[Run], Track]:
    return lambda run: {
        x.round: (x.round, y) for x in run.diagnostics if (y := value(x)) is not None
    }


def _distance(compared: Compared) -> Choice | None:
    lines = []
    for series in compared.series:
        style = style_of(series, compared)
        lines += _sawtooth(series, series.finished, style, 2)
        for run in series.unfinished:
            lines += _sawtooth(series, [run], style, 1)
    y = axis("Consensus distance (parameter units)", rangemode="tozero")
    figure = plot(lines, round_axis(lines), y)
    return Choice("consensus distance", (figure,)) if lines else None


def _sawtooth(series: Series, runs: Sequence[Run], style: Style, width: int) -> list[Trace]:
    """A line from before to after the merge in every round, with markers after it."""
    sides = [band(runs, _track(_side(name))) for name in ("consensus_before", "consensus_after")]
    before, after = (dict(zip(side.rounds, side.mean, strict=True)) for side in sides)
    points = [
        (number, when, known[number])
        for number in sorted({*before, *after})
        for when, known in (("before", before), ("after", after))
        if number in known
    ]
    if not points:
        return []
    line = line_of(series, style, [x for x, _, _ in points], [y for _, _, y in points])
    hover = "round %{x}, %{customdata}: %{y:.4~g}<extra></extra>"
    sizes = [7 if when == "after" else 0 for _, when, _ in points]
    return [
        line
        | {
            "line": {"color": style.color, "dash": style.dash or "solid", "width": width},
            "marker": {"color": style.color, "symbol": style.marker, "size": sizes},
            "customdata": [when for _, when, _ in points],
            "hovertemplate": f"<b>%{{fullData.name}}</b><br>{hover}",
        }
    ]


def _side(name: str) -> _Value:
    return lambda diagnosis: diagnosis.numbers.get(name)


def _by_group(series: Series, name: str, bar: str, scale: float, hover: str) -> Figure | None:
    """A heat map with a column for each round and a row for each group."""
    groups = dict.fromkeys(
        group for run in series.shown for x in run.diagnostics for group in x.groups.get(name, {})
    )
    bands = {group: band(series.shown, _track(_of(name, group))) for group in groups}
    if not any(found.rounds for found in bands.values()):
        return None
    rounds = sorted({x.round for run in series.shown for x in run.diagnostics})
    known = [dict(zip(found.rounds, found.mean, strict=True)) for found in bands.values()]
    z = [[scale * row[r] if r in row else None for r in rounds] for row in known]
    labels = [text(group) for group in groups]
    limits = {"zmin": 0, "zmax": 100} if scale > 1 else {}
    trace = heatmap(z, rounds, labels, hover=f"round %{{x}}, %{{y}}: {hover}", bar=bar, **limits)
    y = cells("Group of units", labels, autorange="reversed")
    return plot(
        [trace], round_axis([trace]) | {"showgrid": False}, y, height=160 + 22 * max(4, len(labels))
    )


def _of(name: str, group: str) -> _Value:
    return lambda diagnosis: diagnosis.groups.get(name, {}).get(group)
