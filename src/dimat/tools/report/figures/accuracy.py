"""Figures of test accuracy: by round, by cost, and by agent."""

from __future__ import annotations

from collections.abc import Callable

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

_PERCENT = "%{y:.1f} %"
_UNFINISHED = " A thin line that ends in an open circle is an unfinished run."


def by_round(compared: Compared) -> Panel | None:
    """The panel of accuracy over rounds; None if nothing was measured.

    Args:
        compared: Content of the report.
    """
    lines = series_lines(compared, _track(lambda x: x.round), _PERCENT)
    if not lines:
        return None
    figure = plot(lines, round_axis(lines, "Round (0: after pre-training)"), _accuracy())
    return Panel(
        "by-round",
        "Accuracy per round",
        "Test accuracy, mean over the agents, right after the merge that begins a round (of "
        "methods that do not merge then: after its training). " + _spread(compared),
        (Choice("round", (figure,)),),
        legend=True,
    )


def by_cost(compared: Compared) -> Panel | None:
    """The panel of accuracy over bytes, seconds and epochs, as far as they were recorded.

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
        "Accuracy for what it costs",
        "The same accuracy against what had been spent when it was measured, mean over seeds. "
        "Against bytes, a method that sends none is a horizontal line at its final accuracy, and "
        "rounds before the first byte are left out. " + _spread(compared),
        choices,
        control="against",
        legend=True,
    )


def by_agent(compared: Compared) -> Panel | None:
    """The panel of accuracy of every agent of one run; None if nothing was measured.

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
        "Accuracy of every agent",
        "Every thin line is the test accuracy of one agent of the chosen run, the thick one their "
        "mean; the narrower they lie, the better the agents agree.",
        tuple(choices),
        control="run",
    )


def _accuracy() -> dict[str, object]:
    return axis("Test accuracy (%)")


def _spread(compared: Compared) -> str:
    """The sentence of a caption that explains lines and bands."""
    several = any(len(series.finished) > 1 for series in compared.series)
    band = (
        "Lines are means over the finished seeds, bands reach from the lowest seed to the highest."
    )
    unfinished = any(series.unfinished for series in compared.series)
    return (band if several else "One seed a line.") + (_UNFINISHED if unfinished else "")


def _track(place: Callable[[Measurement], float | None]) -> Callable[[Run], Track]:
    """Tracks of accuracy in percent over ``place``, for the rounds that have both."""
    return lambda run: {
        x.round: (where, 100 * x.accuracy)
        for x in run.curve.rounds
        if x.accuracy is not None and (where := place(x)) is not None
    }


def _by(
    compared: Compared, label: str, title: str, place: Callable[[Measurement], float | None]
) -> Choice | None:
    lines = series_lines(compared, _track(place), _PERCENT)
    figure = plot(lines, axis(title), _accuracy())
    return Choice(label, (figure,)) if lines else None


def _by_bytes(compared: Compared) -> Choice | None:
    """Accuracy over bytes sent, on a logarithmic axis, which cannot show 0 bytes."""
    lines = series_lines(compared, _track(lambda x: x.sent_bytes or None), _PERCENT)
    if not lines:
        return None
    sent = [float(x) for line in lines for x in _numbers(line["x"])]
    ends = (min(sent), max(sent)) if min(sent) < max(sent) else (min(sent) / 2, 2 * max(sent))
    lines += [line for series in compared.series for line in _reference(series, compared, ends)]
    x = axis("Bytes sent by all agents together", type="log", **byte_range(*ends))
    return Choice("bytes sent", (plot(lines, x, _accuracy()),))


def _numbers(values: object) -> list[float]:
    return [float(x) for x in values] if isinstance(values, list) else []


def _reference(series: Series, compared: Compared, ends: tuple[float, float]) -> list[Trace]:
    """A horizontal line at the final accuracy of a method that sends nothing; else none."""
    found = total(series)
    if found.mean is None or found.sent_bytes != 0:
        return []
    height = 100 * found.mean
    line = line_of(series, style_of(series, compared), ends, (height, height))
    hover = f"<b>%{{fullData.name}}</b><br>sends nothing; {_PERCENT} in the end<extra></extra>"
    return [line | {"hovertemplate": hover}]


def _agents(series: Series, run: Run, style: Style) -> Figure | None:
    measured = run.curve.measured
    if not measured:
        return None
    means = _track(lambda x: x.round)(run)
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"agent {agent}",
            "x": [*means],
            "y": [round(100 * x.accuracies[agent], 4) for x in measured],
            "line": {"color": style.color, "width": 1},
            "opacity": 0.55,
            "hovertemplate": f"agent {agent}, round %{{x}}: {_PERCENT}<extra></extra>",
        }
        for agent in measured[0].accuracies
    ]
    mean = line_of(series, style, [*means], [y for _, y in means.values()])
    hover = f"<b>mean of %{{fullData.name}}</b><br>round %{{x}}: {_PERCENT}<extra></extra>"
    lines.append(mean | {"line": {"color": style.color, "width": 3}, "hovertemplate": hover})
    return plot(lines, round_axis(lines), _accuracy())
