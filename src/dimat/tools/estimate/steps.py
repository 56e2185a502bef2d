"""The times of a run; bytes of methods that exchange while they train, summed over their steps."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dimat.experiment.setup import Setup
from dimat.methods import Method
from dimat.methods.cost import Sizes
from dimat.topology import Topology

_TIMES = 200  # of what varies at random: how many steps with exchange stand for all


def rounds_of(setup: Setup) -> Iterator[Topology]:
    """The topology of every round."""
    return (setup.topology.at(time) for time in range(setup.config.rounds))


def in_steps(setup: Setup, sizes: Sizes, method: Method) -> list[float]:
    """Bytes that each agent sends in all steps of all rounds.

    Where graph and method repeat themselves it is exact; of what varies at random a sample of times
    stands for all.
    """
    total = setup.config.rounds * setup.round_steps(0, together=True)
    found = [0.0] * setup.config.agents
    for time, often in _times(setup, total, random=method.in_pairs):
        now = method.sends(sizes, time, setup.topology.at(time)) or []
        found = [a + often * b for a, b in zip(found, now, strict=True)]
    return found


def _times(setup: Setup, total: int, *, random: bool) -> Iterator[tuple[int, float]]:
    """Steps that stand for all, and for how many each."""
    own, period = setup.config.consensus, setup.topology.period
    if total:
        yield 0, 1.0
    spell = (own.quiet_steps + own.mixing_steps) * (own.quiet_steps + 1)
    if period is None or random:
        sample = min(total - 1, _TIMES * (own.quiet_steps + 1))
        yield from ((time, (total - 1) / sample) for time in range(1, sample + 1))
        return
    cycle = math.lcm(period, spell)
    for time in range(1, min(cycle, total - 1) + 1):
        yield time, float((total - 1 - time) // cycle + 1)
