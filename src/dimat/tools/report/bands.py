"""Several seeds as one line: their mean, and how far they spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dimat.tools.records.run import Run

# Of a run: where it is at a round (x, y).
Track = Mapping[int, tuple[float, float]]


@dataclass(frozen=True)
class Band:
    """The mean of some runs over the rounds that all of them measured.

    Args:
        rounds: The rounds.
        x: Mean over the runs of where they are then.
        mean: Mean over the runs.
        low: The lowest of them.
        high: The highest of them.
        n: How many runs.
    """

    rounds: tuple[int, ...]
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int


def band(runs: Sequence[Run], track: Callable[[Run], Track]) -> Band:
    """The band of some runs; empty if they have no round in common.

    Rounds that only some of them measured are left out: a mean whose members change from round to
    round would move without any of them moving.
    """
    tracks = [track(run) for run in runs]
    common = set.intersection(*(set(each) for each in tracks)) if tracks else set[int]()
    rounds = tuple(sorted(common))
    places = [[each[number] for each in tracks] for number in rounds]
    return Band(
        rounds,
        tuple(statistics.fmean(x for x, _ in place) for place in places),
        tuple(statistics.fmean(y for _, y in place) for place in places),
        tuple(min(y for _, y in place) for place in places),
        tuple(max(y for _, y in place) for place in places),
        len(tracks),
    )
