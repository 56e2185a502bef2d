"""Differences of methods to the first one, paired by seed, and of two series in all they have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dimat.metric import Metric
from dimat.tools.format import NOTHING, human_bytes, human_seconds
from dimat.tools.records.settings import key_of, shown
from dimat.tools.report.compared import Compared, Series
from dimat.tools.report.totals import total
from dimat.tools.statistics import Difference, Spread, paired, spread

PHASES = {"merging": "merged", "training": "trained"}


@dataclass(frozen=True)
class Versus:
    """A method after one phase of its last round, beside the first method of the same settings.

    Args:
        series: The finished runs of the method.
        first: Those of the first method.
        after: merging or training.
        score: The main metric over the seeds, mean over the agents.
        difference: Its difference to the first method after the same phase; None for the first
            method itself, and with fewer than two seeds that both have finished.
    """

    series: Series
    first: Series
    after: str
    score: Spread
    difference: Difference | None

    @property
    def sure(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return self.difference is not None and self.difference.low * self.difference.high > 0


def differences(compared: Compared) -> list[Versus]:
    """All methods after each phase, grid point by grid point; empty if no two can be paired.

    Args:
        compared: Content of the report.
    """
    points: dict[str, list[Series]] = {}
    for series in compared.series:
        points.setdefault(key_of(series.point), []).append(series)
    found = [versus for methods in points.values() for versus in _at_a_point(methods)]
    return found if any(versus.difference for versus in found) else []


@dataclass(frozen=True)
class Beside:
    """A setting or a number of two series.

    Args:
        name: Name of it.
        first: Its value in the first series, as text.
        second: Its value in the second.
        difference: The second less the first, or how many times the first it is; empty of settings.
    """

    name: str
    first: str
    second: str
    difference: str = ""


def side_by_side(compared: Compared) -> list[Beside]:
    """What differs between two series, and their numbers; empty of more or fewer series.

    Args:
        compared: Content of the report.
    """
    if len(compared.series) != 2:
        return []
    first, second = compared.series
    rows = [Beside("method", first.method, second.method)] if len(compared.methods) > 1 else []
    for name in compared.differing:
        rows.append(Beside(name, shown(first.point[name]), shown(second.point[name])))
    metric, both = compared.metric, (total(first), total(second))
    unit = " (%)" if metric.percent else ""
    names = {
        "mean": f"test {metric.name.replace('_', ' ')}",
        "worst": "worst agent",
        "merged": "after merging",
        "trained": "after training",
    }
    for field, name in names.items():
        a, b = (getattr(one, field) for one in both)
        rows.append(Beside(name + unit, metric.show(a), metric.show(b), _less(a, b, metric)))
    for field, name, show in (
        ("sent_bytes", "bytes sent", human_bytes),
        ("busy_s", "busy", human_seconds),
    ):
        a, b = (getattr(one, field) for one in both)
        rows.append(Beside(name, show(a), show(b), f"× {b / a:.3g}" if a and b else NOTHING))
    return rows


def _less(first: float | None, second: float | None, metric: Metric) -> str:
    if first is None or second is None:
        return NOTHING
    difference = second - first
    return f"{100 * difference:+.1f}" if metric.percent else f"{difference:+.3g}"


def _at_a_point(methods: Sequence[Series]) -> Iterator[Versus]:
    first = methods[0]
    for series in methods:
        for after, phase in PHASES.items():
            own, other = _by_seed(series, phase), _by_seed(first, phase)
            if (score := spread([*own.values()])) is None:
                continue
            seeds = [] if series is first else sorted(own.keys() & other.keys())
            difference = paired([own[x] for x in seeds], [other[x] for x in seeds])
            yield Versus(series, first, after, score, difference)


def _by_seed(series: Series, phase: str) -> dict[int, float | None]:
    return {run.seed: run.curve.after(phase) for run in series.finished}
