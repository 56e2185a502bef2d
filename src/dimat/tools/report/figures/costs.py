"""Figures of the costs of methods: seconds and bytes by phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.figures.figure import (
    Choice,
    Figure,
    Panel,
    Trace,
    axis,
    cells,
    plot,
    room_of,
    wrapped,
)
from dimat.tools.report.totals import bytes_sent, seconds

# Grays that no series has, told apart by patterns as well.
_LOOKS = {"matching": ("#B8B8B8", "x"), "merging": ("#8C8C8C", "/"), "training": ("#5E5E5E", "")}
_PATTERN = {"fillmode": "overlay", "fgcolor": "#FFFFFF", "size": 6}
_LEGEND = {
    "orientation": "h",
    "traceorder": "normal",
    "xref": "container",
    "yref": "container",
    "x": 0,
    "yanchor": "top",
}


def costs(compared: Compared) -> Panel | None:
    """The panel of seconds and bytes of every series; None if neither was recorded.

    Args:
        compared: Content of the report.
    """
    found = [
        _bars(compared, _seconds, ("Seconds", "~r", " s")),
        _bars(compared, _bytes, ("Bytes sent", "~s", "B")),
    ]
    figures = tuple(figure for figure in found if figure)
    if not figures:
        return None
    return Panel(
        "costs",
        "What it costs",
        "Seconds that all agents together spent on matching, merging and training in the rounds "
        "that were measured, and bytes that they sent to match and merge, and while they trained; "
        "mean over the finished seeds (where none is finished: so far).",
        (Choice("all", figures),),
    )


def _seconds(series: Series) -> Sequence[float | None]:
    return tuple(seconds(series.shown).values())


def _bytes(series: Series) -> Sequence[float | None]:
    return (None, *bytes_sent(series.shown))


def _bars(
    compared: Compared,
    parts: Callable[[Series], Sequence[float | None]],
    measure: tuple[str, str, str],
) -> Figure | None:
    """A bar for every series, in parts for matching, merging and training.

    Args:
        compared: Content of the report.
        parts: Gives the lengths of a series' parts; None for a part that was not recorded.
        measure: Title of the axis, plotly's number format, and unit.
    """
    values = [(series, parts(series)) for series in compared.series]
    known = [(series, found) for series, found in values if any(x is not None for x in found)]
    if not known:
        return None
    labels = [wrapped(series.label) for series, _ in known]
    traces = [
        _bar(phase, labels, [found[i] for _, found in known], measure)
        for i, phase in enumerate(_LOOKS)
        if any(found[i] is not None for _, found in known)
    ]
    title, form, unit = measure
    height = 150 + max(40, 17 * max(label.count("<br>") + 2 for label in labels)) * len(known)
    return plot(
        traces,
        axis(title, tickformat=form, ticksuffix=unit, rangemode="tozero", automargin=False),
        cells("", labels, autorange="reversed", automargin=False),
        barmode="stack",
        height=height,
        margin={"l": 16 + 7 * room_of(labels), "r": 8, "t": 62, "b": 48},
        showlegend=True,
        legend=_LEGEND | {"y": 1 - 30 / height},
    )


def _bar(
    phase: str,
    labels: Sequence[str],
    values: Sequence[float | None],
    measure: tuple[str, str, str],
) -> Trace:
    color, pattern = _LOOKS[phase]
    _, form, unit = measure
    return {
        "type": "bar",
        "orientation": "h",
        "name": phase,
        "y": list(labels),
        "x": list(values),
        "marker": {"color": color, "pattern": {**_PATTERN, "shape": pattern}},
        "hovertemplate": f"%{{y}}<br>{phase}: %{{x:.4{form}}}{unit}<extra></extra>",
    }
