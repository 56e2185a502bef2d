"""Bands over several runs: their mean, lowest and highest value, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dimat.tools.records.run import Run

# The track of a run: its point (x, y) at each round.
Track = Mapping[int, tuple[float, float]]


@dataclass(frozen=True)
class Band:
    """Mean and range of several runs over the rounds that all of them measured.

    Args:
        rounds: The rounds, ascending.
        x: Mean of x over the runs, by round.
        mean: Mean of y over the runs, by round.
        low: Lowest y of the runs, by round.
        high: Highest y of the runs, by round.
        n: Number of runs.
    """

    rounds: tuple[int, ...]
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int


def band(runs: Sequence[Run], track: Callable[[Run], Track]) -> Band:
    """The band of several runs; empty if they have no round in common.

    Rounds that only some runs measured are left out: a mean over changing runs would move though no
    run does.

    Args:
        runs: The runs.
        track: Gives the track of a run.
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
