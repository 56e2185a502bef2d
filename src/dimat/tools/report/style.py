"""The style of a series, the same in every plot: color, dashes and marker."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.tools.report.compared import Compared, Series

# Okabe and Ito's palette, safe for color-blind readers; the yellow, faint on white, comes last, and
# a gray that is visible on white and on black replaces black.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A", "#C9B800")

# On and off lengths in pixels, for plotly and SVG alike; "" is an unbroken line.
DASHES = ("", "7px,3px", "2px,3px", "8px,3px,2px,3px", "14px,4px")

# Plotly's names of markers, each with the same shape as an SVG path in [-5, 5].
MARKERS = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "square": "M-4 -4H4V4H-4Z",
    "diamond": "M0 -5L5 0L0 5L-5 0Z",
    "triangle-up": "M0 -5L5 4H-5Z",
    "cross": "M-5 -2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z",
    "triangle-down": "M0 5L5 -4H-5Z",
    "x": "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
}


@dataclass(frozen=True)
class Style:
    """The style in which one series is drawn.

    Args:
        color: Color as #rrggbb.
        dash: On and off lengths in pixels; "" is an unbroken line.
        marker: Plotly's name of the marker.
    """

    color: str
    dash: str
    marker: str

    @property
    def path(self) -> str:
        """The marker as an SVG path."""
        return MARKERS[self.marker]

    @property
    def pale(self) -> str:
        """The translucent color of areas."""
        red, green, blue = (int(self.color[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},0.18)"


def style_of(series: Series, compared: Compared) -> Style:
    """The style of a series: color and marker by method, dashes by point, if there are several.

    Args:
        series: The series.
        compared: Content of the report.
    """
    method = compared.methods.index(series.method)
    points = list(dict.fromkeys(str(other.point) for other in compared.series))
    dashed = points.index(str(series.point)) if len(points) > 1 else method
    markers = [*MARKERS]
    return Style(
        COLORS[method % len(COLORS)],
        DASHES[dashed % len(DASHES)],
        markers[method % len(markers)],
    )
