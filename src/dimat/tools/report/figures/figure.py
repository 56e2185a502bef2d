"""Figures for plotly, and panels of a page, which show one choice of figures at a time."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dimat.tools.format import human_bytes

Trace = Mapping[str, object]
LONG = 22  # characters of a name above which its middle is left out
_BLUES = [[0, "#dcebf7"], [0.5, "#6aaed6"], [1, "#08306b"]]


@dataclass(frozen=True)
class Figure:
    """A figure that plotly draws.

    Args:
        traces: Plotly's traces; those of a series have its index as ``meta``.
        layout: Plotly's layout.
    """

    traces: tuple[Trace, ...]
    layout: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """The figure as JSON for plotly."""
        return {"data": list(self.traces), "layout": dict(self.layout)}


@dataclass(frozen=True)
class Choice:
    """Figures that are shown together.

    Args:
        label: Label of the choice.
        figures: The figures, side by side, or one below the other where there is no room.
    """

    label: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Panel:
    """A panel of the page: title, caption, and figures to choose from.

    Args:
        name: Anchor of the panel.
        title: Title in words.
        caption: One or two sentences that explain the figures.
        choices: At least one choice; the first is shown at first.
        control: Label of the control that chooses, in a word or two.
        legend: Whether the lines are series, which need a legend.
        ordered: Whether the choices are steps in time, chosen with a slider.
    """

    name: str
    title: str
    caption: str
    choices: tuple[Choice, ...]
    control: str = "show"
    legend: bool = False
    ordered: bool = False

    @property
    def places(self) -> int:
        """The largest number of figures shown at a time."""
        return max(len(choice.figures) for choice in self.choices)

    @property
    def series(self) -> set[object]:
        """The indices of the series that are drawn."""
        traces = [t for choice in self.choices for figure in choice.figures for t in figure.traces]
        return {trace["meta"] for trace in traces if "meta" in trace}


def text(words: str) -> str:
    """Text for a figure, escaped, since plotly interprets markup.

    Args:
        words: The text.

    >>> text("<b>a & b</b>")
    '&lt;b&gt;a &amp; b&lt;/b&gt;'
    """
    return html.escape(" ".join(words.split()), quote=False)


def axis(title: str, **more: object) -> dict[str, object]:
    """An axis of a figure.

    Args:
        title: Title in words, with the unit.
        more: Other properties of the axis.
    """
    return {"title": {"text": title, "standoff": 8}, "automargin": True, "zeroline": False} | more


def round_axis(traces: Sequence[Trace], title: str = "Round") -> dict[str, object]:
    """The axis of rounds, with ticks at whole numbers only.

    Args:
        traces: Traces whose x are rounds.
        title: Title of the axis.
    """
    places = [float(x) for trace in traces for x in _list(trace["x"])]
    few = bool(places) and max(places) - min(places) <= 10
    return axis(title, **({"dtick": 1} if few else {}))


def _list(value: object) -> list[float]:
    return value if isinstance(value, list) else []


def cells(title: str, names: Sequence[str] = (), **more: object) -> dict[str, object]:
    """An axis of categories, such as agents, of a heat map or bars.

    Args:
        title: Title of the axis.
        names: Names of the categories, as in the trace; long ones are cut.
        more: Other properties of the axis.
    """
    if any(len(name) > LONG for name in names):
        more = {"tickvals": list(names), "ticktext": [_cut(name) for name in names], **more}
    return axis(title, type="category", showgrid=False, **more)


def _cut(name: str) -> str:
    """A name with its middle left out, if it is too long beside a plot.

    >>> _cut("layers.3.blocks.1.attention.query")
    'layers.3.bl…tion.query'
    """
    lines = [html.unescape(line) for line in name.split("<br>")]
    cut = [x if len(x) <= LONG else f"{x[: LONG // 2]}…{x[1 - LONG // 2 :]}" for x in lines]
    return "<br>".join(text(line) for line in cut)


def wrapped(label: str) -> str:
    """The label of a series on several lines: the method, then a setting a line.

    Args:
        label: The label.

    >>> wrapped("wa · agents=5, topology=ring")
    'wa<br>agents=5<br>topology=ring'
    """
    return text(label).replace(" · ", "<br>").replace(", ", "<br>")


def room_of(labels: Sequence[str]) -> int:
    """Number of characters of the longest line that stands beside a plot.

    Args:
        labels: At least one label, as :func:`wrapped` and :func:`cells` lay them out.
    """
    return min(LONG, max(len(line) for label in labels for line in label.split("<br>")))


def byte_range(low: float, high: float) -> dict[str, object]:
    """Range and ticks of a logarithmic axis of bytes: 1, 2, 5, 10, …, or powers of ten only.

    Args:
        low: Smallest number of bytes, > 0.
        high: Largest number of bytes, >= ``low``.

    >>> byte_range(300, 6000)["ticktext"]
    ['500 B', '1.0 kB', '2.0 kB', '5.0 kB']
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(powers) <= 4 else (1,)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    found = [tick for tick in ticks if low <= tick <= high] or [low]
    ends = [math.log10(low) - 0.05, math.log10(high) + 0.05]
    return {"tickvals": found, "ticktext": [human_bytes(x) for x in found], "range": ends}


def plot(
    traces: Sequence[Trace], x: Mapping[str, object], y: Mapping[str, object], **layout: object
) -> Figure:
    """A figure with two axes, 400 pixels high by default.

    Args:
        traces: Plotly's traces.
        x: Properties of the horizontal axis.
        y: Properties of the vertical axis.
        layout: Other properties of plotly's layout.
    """
    frame = {"l": 8, "r": 8, "t": 32, "b": 8}  # the top has room for buttons
    common = {"xaxis": x, "yaxis": y, "margin": frame, "showlegend": False, "height": 400}
    return Figure(tuple(traces), {**common, "hovermode": "closest", **layout})


def heatmap(
    z: Sequence[Sequence[float | None]],
    x: Sequence[str | int],
    y: Sequence[str | int],
    *,
    hover: str,
    bar: str,
    **more: object,
) -> Trace:
    """A heat map from pale to dark blue, safe for color-blind readers; None leaves a hole.

    Args:
        z: A row of values for every entry of ``y``.
        x: Names or numbers of the columns.
        y: Names or numbers of the rows, from the top.
        hover: Plotly's template for the text of a cell.
        bar: Title of the color bar.
        more: Other properties of the trace.
    """
    side = {"title": {"text": bar, "side": "right"}, "thickness": 12, "outlinewidth": 0}
    common = {
        "type": "heatmap",
        "colorscale": _BLUES,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
    }
    return {
        **common,
        "z": [list(row) for row in z],
        "x": list(x),
        "y": list(y),
        "colorbar": side,
        "hovertemplate": f"{hover}<extra></extra>",
        **more,
    }
