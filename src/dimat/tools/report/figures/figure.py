"""A figure, and the panel of a page that shows one at a time."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dimat.tools.format import human_bytes

Trace = Mapping[str, object]
LONG = 22  # characters of a name; of a longer one the middle is left out
_BLUES = [[0, "#dcebf7"], [0.5, "#6aaed6"], [1, "#08306b"]]


@dataclass(frozen=True)
class Figure:
    """What plotly draws.

    Args:
        traces: Plotly's traces; those of a series carry its index as ``meta``.
        layout: Plotly's layout.
    """

    traces: tuple[Trace, ...]
    layout: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        """The figure as plotly takes it."""
        return {"data": list(self.traces), "layout": dict(self.layout)}


@dataclass(frozen=True)
class Choice:
    """Figures that are shown together.

    Args:
        label: What to choose them by.
        figures: Side by side, or one below the other where there is no room.
    """

    label: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Panel:
    """A titled place in the page with something to choose from.

    Args:
        name: Its anchor.
        title: In words.
        caption: One or two sentences that say what is seen.
        choices: At least one; the first is shown.
        control: What is chosen, in a word or two.
        legend: Whether the lines are series, which a legend tells apart.
        ordered: Whether the choices are steps in time: chosen with a slider.
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
        """How many figures are shown at a time, at most."""
        return max(len(choice.figures) for choice in self.choices)

    @property
    def series(self) -> set[object]:
        """The series that are drawn, by index."""
        traces = [t for choice in self.choices for figure in choice.figures for t in figure.traces]
        return {trace["meta"] for trace in traces if "meta" in trace}


def text(words: str) -> str:
    """Words for a figure, where plotly would take markup for markup.

    >>> text("<b>a & b</b>")
    '&lt;b&gt;a &amp; b&lt;/b&gt;'
    """
    return html.escape(" ".join(words.split()), quote=False)


def axis(title: str, **more: object) -> dict[str, object]:
    """An axis with its title in words and its unit."""
    return {"title": {"text": title, "standoff": 8}, "automargin": True, "zeroline": False} | more


def round_axis(traces: Sequence[Trace], title: str = "Round") -> dict[str, object]:
    """The axis of rounds, with ticks at whole numbers only."""
    places = [float(x) for trace in traces for x in _list(trace["x"])]
    few = bool(places) and max(places) - min(places) <= 10
    return axis(title, **({"dtick": 1} if few else {}))


def _list(value: object) -> list[float]:
    return value if isinstance(value, list) else []


def cells(title: str, names: Sequence[str] = (), **more: object) -> dict[str, object]:
    """An axis of things that are named, such as agents, beside a heat map or bars.

    Args:
        title: Of the axis.
        names: What they are called, as they are given to the trace; long ones are cut.
        more: Other properties of the axis.
    """
    if any(len(name) > LONG for name in names):
        more = {"tickvals": list(names), "ticktext": [_cut(name) for name in names], **more}
    return axis(title, type="category", showgrid=False, **more)


def _cut(name: str) -> str:
    """A name that leaves room for the plot beside it.

    >>> _cut("layers.3.blocks.1.attention.query")
    'layers.3.bl…tion.query'
    """
    lines = [html.unescape(line) for line in name.split("<br>")]
    cut = [x if len(x) <= LONG else f"{x[: LONG // 2]}…{x[1 - LONG // 2 :]}" for x in lines]
    return "<br>".join(text(line) for line in cut)


def byte_range(low: float, high: float) -> dict[str, object]:
    """Range and ticks of a logarithmic axis of bytes: 1, 2, 5, 10, …, or powers of ten only.

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
    """A figure with two axes; 400 pixels high unless said otherwise."""
    frame = {"l": 8, "r": 8, "t": 32, "b": 8}  # above: room for the buttons
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
    """A heat map from pale to dark blue, which everybody sees alike; None leaves a hole.

    Args:
        z: A row of values for every entry of ``y``.
        x: What the columns are.
        y: What the rows are, from the top.
        hover: Plotly's template for what is said of a cell.
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
