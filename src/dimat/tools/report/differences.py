"""Differences of methods to the first one, paired by seed, as ``dimat compare`` prints them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dimat.tools.records.settings import key_of
from dimat.tools.report.compared import Compared, Series
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
