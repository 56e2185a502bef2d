"""Figures of the main test metric, such as accuracy: by round, by cost, and by agent."""

from __future__ import annotations

from collections.abc import Callable

from dimat.metric import Metric
from dimat.tools.records.curve import Measurement
from dimat.tools.records.run import Run
from dimat.tools.report.bands import Track
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.figures.figure import (
    Choice,
    Figure,
    Panel,
    Trace,
    axis,
    byte_range,
    plot,
    round_axis,
)
from dimat.tools.report.figures.lines import line_of, series_lines
from dimat.tools.report.style import Style, style_of
from dimat.tools.report.totals import total

_UNFINISHED = " A thin line that ends in an open circle is an unfinished run."


def by_round(compared: Compared) -> Panel | None:
    """The panel of scores over rounds; None if nothing was measured.

    Args:
        compared: Content of the report.
    """
    metric = compared.metric
    lines = series_lines(compared, _track(metric, lambda x: x.round), _value(metric))
    if not lines:
        return None
    figure = plot(lines, round_axis(lines, "Round (0: after pre-training)"), _axis(metric))
    return Panel(
        "by-round",
        f"{heading_of(metric)} per round",
        f"Test {_word(metric)}, mean over the agents, right after the merge that begins a round "
        "(of methods that do not merge then: after its training). " + _spread(compared),
        (Choice("round", (figure,)),),
        legend=True,
    )


def by_cost(compared: Compared) -> Panel | None:
    """The panel of scores over bytes, seconds and epochs, as far as they were recorded.

    Args:
        compared: Content of the report.
    """
    found = [
        _by_bytes(compared),
        _by(
            compared,
            "seconds computed",
            "Seconds computed, by the slowest agent of every phase",
            lambda x: x.busy_s,
        ),
        _by(
            compared,
            "epochs",
            "Passes over the agent's own images, mean over agents",
            lambda x: x.epochs,
        ),
    ]
    choices = tuple(choice for choice in found if choice)
    if not choices:
        return None
    return Panel(
        "by-cost",
        f"{heading_of(compared.metric)} for what it costs",
        f"The same {_word(compared.metric)} against what had been spent when it was measured, "
        "mean over seeds. Against bytes, a method that sends none is a horizontal line at its "
        "final value, and rounds before the first byte are left out. " + _spread(compared),
        choices,
        control="against",
        legend=True,
    )


def by_agent(compared: Compared) -> Panel | None:
    """The panel of scores of every agent of one run; None if nothing was measured.

    Args:
        compared: Content of the report.
    """
    choices = [
        Choice(
            f"{series.label}, seed {run.seed}{'' if run.finished else ' (unfinished)'}", (figure,)
        )
        for series in compared.series
        for run in series.runs
        if (figure := _agents(series, run, style_of(series, compared)))
    ]
    if not choices:
        return None
    return Panel(
        "by-agent",
        f"{heading_of(compared.metric)} of every agent",
        f"Every thin line is the test {_word(compared.metric)} of one agent of the chosen run, the "
        "thick one their mean; the narrower they lie, the better the agents agree.",
        tuple(choices),
        control="run",
    )


def _word(metric: Metric) -> str:
    return metric.name.replace("_", " ")


def heading_of(metric: Metric) -> str:
    """The name of a metric as a heading.

    >>> heading_of(Metric("pixel_accuracy"))
    'Pixel accuracy'
    """
    return _word(metric)[:1].upper() + _word(metric)[1:]


def _scale(metric: Metric) -> float:
    return 100.0 if metric.percent else 1.0


def _value(metric: Metric) -> str:
    """Plotly's format of a value in a hover text."""
    return "%{y:.1f} %" if metric.percent else "%{y:.4~g}"


def _axis(metric: Metric) -> dict[str, object]:
    return axis(f"Test {_word(metric)}{' (%)' if metric.percent else ''}")


def _spread(compared: Compared) -> str:
    """The sentence of a caption that explains lines and bands."""
    several = any(len(series.finished) > 1 for series in compared.series)
    band = (
        "Lines are means over the finished seeds, bands reach from the lowest seed to the highest."
    )
    unfinished = any(series.unfinished for series in compared.series)
    return (band if several else "One seed a line.") + (_UNFINISHED if unfinished else "")


def _track(metric: Metric, place: Callable[[Measurement], float | None]) -> Callable[[Run], Track]:
    """Tracks of the scores that people read over ``place``, for the rounds that have both."""
    scale = _scale(metric)
    return lambda run: {
        x.round: (where, scale * x.score)
        for x in run.curve.rounds
        if x.score is not None and (where := place(x)) is not None
    }


def _by(
    compared: Compared, label: str, title: str, place: Callable[[Measurement], float | None]
) -> Choice | None:
    metric = compared.metric
    lines = series_lines(compared, _track(metric, place), _value(metric))
    figure = plot(lines, axis(title), _axis(metric))
    return Choice(label, (figure,)) if lines else None


def _by_bytes(compared: Compared) -> Choice | None:
    """Scores over bytes sent, on a logarithmic axis, which cannot show 0 bytes."""
    metric = compared.metric
    track = _track(metric, lambda x: x.sent_bytes or None)
    lines = series_lines(compared, track, _value(metric))
    if not lines:
        return None
    sent = [float(x) for line in lines for x in _numbers(line["x"])]
    ends = (min(sent), max(sent)) if min(sent) < max(sent) else (min(sent) / 2, 2 * max(sent))
    lines += [line for series in compared.series for line in _reference(series, compared, ends)]
    x = axis("Bytes sent by all agents together", type="log", **byte_range(*ends))
    return Choice("bytes sent", (plot(lines, x, _axis(metric)),))


def _numbers(values: object) -> list[float]:
    return [float(x) for x in values] if isinstance(values, list) else []


def _reference(series: Series, compared: Compared, ends: tuple[float, float]) -> list[Trace]:
    """A horizontal line at the final score of a method that sends nothing; else none."""
    found = total(series)
    if found.mean is None or found.sent_bytes != 0:
        return []
    value, height = _value(compared.metric), _scale(compared.metric) * found.mean
    line = line_of(series, style_of(series, compared), ends, (height, height))
    hover = f"<b>%{{fullData.name}}</b><br>sends nothing; {value} in the end<extra></extra>"
    return [line | {"hovertemplate": hover}]


def _agents(series: Series, run: Run, style: Style) -> Figure | None:
    measured = run.curve.measured
    if not measured:
        return None
    scale, value = _scale(run.metric), _value(run.metric)
    means = _track(run.metric, lambda x: x.round)(run)
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"agent {agent}",
            "x": [*means],
            "y": [round(scale * x.scores[agent], 4) for x in measured],
            "line": {"color": style.color, "width": 1},
            "opacity": 0.55,
            "hovertemplate": f"agent {agent}, round %{{x}}: {value}<extra></extra>",
        }
        for agent in measured[0].scores
    ]
    mean = line_of(series, style, [*means], [y for _, y in means.values()])
    hover = f"<b>mean of %{{fullData.name}}</b><br>round %{{x}}: {value}<extra></extra>"
    lines.append(mean | {"line": {"color": style.color, "width": 3}, "hovertemplate": hover})
    return plot(lines, round_axis(lines), _axis(run.metric))
