"""Lines of series: the mean of the finished runs in a band, and a line for each unfinished run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dimat.tools.records.run import Run
from dimat.tools.report.bands import Band, Track, band
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.figures.figure import Trace, text
from dimat.tools.report.style import Style, style_of


def series_lines(compared: Compared, track: Callable[[Run], Track], value: str) -> list[Trace]:
    """The bands and lines of all series, bands first, so that they lie below all lines.

    Args:
        compared: Content of the report.
        track: Gives the track of a run.
        value: Plotly's format of y in a hover text, with its unit: ``%{y:.1f} %``.
    """
    bands, lines = [], []
    for series in compared.series:
        style = style_of(series, compared)
        found = band(series.finished, track)
        if found.rounds:
            bands += [_area(series, found, style)] if found.n > 1 else []
            lines.append(_mean_line(series, found, style, value))
        for run in series.unfinished:
            lines += _unfinished(series, run, track(run), style, value)
    return [*bands, *lines]


def line_of(
    series: Series, style: Style, x: Sequence[float], y: Sequence[float]
) -> dict[str, object]:
    """A line in the style of its series, whose index it has as ``meta``.

    Args:
        series: The series.
        style: Style of the series.
        x: Horizontal coordinates of the points.
        y: Vertical coordinates of the points.
    """
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "meta": series.index,
        "name": text(series.label),
        "x": list(x),
        "y": list(y),
        "line": {"color": style.color, "dash": style.dash or "solid", "width": 2},
        "marker": {"color": style.color, "symbol": style.marker, "size": 7, "maxdisplayed": 24},
    }


def _mean_line(series: Series, found: Band, style: Style, value: str) -> Trace:
    spread = " (%{customdata[1]:.4~g} to %{customdata[2]:.4~g}, n = %{customdata[3]})"
    hover = f"<b>%{{fullData.name}}</b><br>round %{{customdata[0]}}: {value}"
    rows = zip(found.rounds, found.low, found.high, strict=True)
    return line_of(series, style, found.x, found.mean) | {
        "customdata": [[number, low, high, found.n] for number, low, high in rows],
        "hovertemplate": f"{hover}{spread if found.n > 1 else ''}<extra></extra>",
    }


def _area(series: Series, found: Band, style: Style) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "meta": series.index,
        "x": [*found.x, *reversed(found.x)],
        "y": [*found.high, *reversed(found.low)],
        "fill": "toself",
        "fillcolor": style.pale,
        "line": {"width": 0, "color": style.color},
        "hoverinfo": "skip",
    }


def _unfinished(series: Series, run: Run, track: Track, style: Style, value: str) -> list[Trace]:
    """A thin line of an unfinished run, which ends in an open marker."""
    if not track:
        return []
    rounds = sorted(track)
    line = line_of(series, style, *zip(*(track[number] for number in rounds), strict=True))
    sizes = [0] * (len(rounds) - 1) + [12]
    hover = f"round %{{customdata}}: {value}, seed {run.seed}, unfinished"
    return [
        line
        | {
            "line": {"color": style.color, "dash": style.dash or "solid", "width": 1},
            "marker": {"color": style.color, "symbol": "circle-open", "size": sizes},
            "customdata": rounds,
            "hovertemplate": f"<b>%{{fullData.name}}</b><br>{hover}<extra></extra>",
        }
    ]
