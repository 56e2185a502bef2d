"""Figure of the differences of methods to the first one, each with its confidence interval."""

from __future__ import annotations

from collections.abc import Sequence

from dimat.metric import Metric
from dimat.tools.format import interval
from dimat.tools.report.compared import Compared
from dimat.tools.report.differences import PHASES, Versus, differences
from dimat.tools.report.figures.figure import (
    Choice,
    Figure,
    Panel,
    Trace,
    axis,
    cells,
    plot,
    room_of,
    text,
    wrapped,
)
from dimat.tools.report.style import style_of
from dimat.tools.statistics import Difference


def intervals(compared: Compared) -> Panel | None:
    """The panel of differences after merging and after training; None without any.

    Args:
        compared: Content of the report.
    """
    found = differences(compared)
    choices = [
        Choice(f"after {after}", (figure,))
        for after in PHASES
        if (figure := _figure(compared, [x for x in found if x.after == after]))
    ]
    if not choices:
        return None
    return Panel(
        "differences",
        "Differences and their intervals",
        "Every marker is the mean difference to the first method of the same settings, over the "
        "seeds that both have finished; its bar is the 95 % confidence interval. A bar that "
        "crosses the dashed line says that these seeds do not tell which is better.",
        tuple(choices),
    )


def _figure(compared: Compared, found: Sequence[Versus]) -> Figure | None:
    known = [(x, x.difference) for x in found if x.difference]
    if not known:
        return None
    labels = [wrapped(x.series.label) for x, _ in known]
    height = 110 + max(40, 17 * max(label.count("<br>") + 2 for label in labels)) * len(known)
    middle = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1}
    return plot(
        [_mark(compared, versus, own) for versus, own in known],
        axis(f"Difference of test {_measure(compared.metric)}", automargin=False),
        cells("", labels, range=[len(labels) - 0.5, -0.5], automargin=False),
        height=height,
        margin={"l": 16 + 7 * room_of(labels), "r": 8, "t": 32, "b": 48},
        shapes=[middle | {"line": {"color": "#7A7A7A", "width": 1, "dash": "dash"}}],
    )


def _measure(metric: Metric) -> str:
    name = metric.name.replace("_", " ")
    return f"{name} (percentage points)" if metric.percent else name


def _mark(compared: Compared, versus: Versus, own: Difference) -> Trace:
    style = style_of(versus.series, compared)
    scale = 100 if compared.metric.percent else 1
    mean, low, high = (scale * x for x in (own.mean, own.low, own.high))
    said = f"{interval(own, compared.metric)}, n = {own.n}"
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [mean],
        "y": [wrapped(versus.series.label)],
        "error_x": {"array": [high - mean], "arrayminus": [mean - low], "color": style.color},
        "marker": {"color": style.color, "symbol": style.marker, "size": 10},
        "hovertemplate": f"%{{y}}<br>to {text(versus.first.method)}: {said}<extra></extra>",
    }
