"""The legend of plots of series: in HTML, so that it wraps, prints and takes the keyboard."""

from __future__ import annotations

from collections.abc import Collection

from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.markup import Html, tag
from dimat.tools.report.style import MARKERS, style_of


def swatch(series: Series, compared: Compared) -> Html:
    """A bit of the line of a series, with its dashes and its marker."""
    style = style_of(series, compared)
    line = tag(
        "path",
        d="M0 7H40",
        stroke=style.color,
        stroke_width=2,
        stroke_dasharray=style.dash.replace("px", "") or "none",
    )
    marker = tag("path", d=MARKERS[style.marker], fill=style.color, transform="translate(20 7)")
    return tag("svg", line, marker, viewBox="0 0 40 14", class_="swatch", aria_hidden="true")


def legend(compared: Compared, of: Collection[object]) -> Html:
    """A button for each of some series, by index, that shows and hides it in all plots."""
    items = [
        tag(
            "li",
            tag(
                "button",
                swatch(series, compared),
                tag("span", series.label),
                type="button",
                data_series=series.index,
                aria_pressed="true",
            ),
        )
        for series in compared.series
        if series.index in of
    ]
    return tag("ul", *items, class_="legend", title="click: show or hide; double click: only this")
