"""Bytes of methods that exchange while they train, summed over all their steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

from dimat.experiment.setup import Setup
from dimat.methods.steps.swarm import pairs
from dimat.topology import Topology

_WEIGHT = 8  # that push-sum adds to a state
_TIMES = 200  # of what varies at random: how many steps with exchange stand for all


class Sizes(Protocol):
    """How long messages are."""

    @property
    def setup(self) -> Setup:
        """The setup of the run."""

    @property
    def state(self) -> int:
        """Bytes of a state as it travels."""

    @property
    def gradient(self) -> int:
        """Bytes of a gradient as it travels."""


def in_steps(sizes: Sizes, name: str) -> list[float]:
    """Bytes that each agent sends in all steps of all rounds: of a method by its name.

    Where graph and method repeat themselves it is exact; of what varies at random a sample of times
    stands for all.
    """
    setup, sends = sizes.setup, STEPS[name]
    total = setup.config.rounds * setup.round_steps(0, together=True)
    found = [0.0] * setup.config.agents
    for time, often in _times(setup, total, random=name == "swarm"):
        now = sends(sizes, time, setup.topology.at(time))
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


def _to_listeners(topology: Topology, told: int) -> list[float]:
    return [float(told * len(topology.listeners(i))) for i in range(topology.num_agents)]


def _states(sizes: Sizes, time: int, topology: Topology) -> list[float]:
    return _to_listeners(topology, sizes.state)


def _pushed(sizes: Sizes, time: int, topology: Topology) -> list[float]:
    return _to_listeners(topology, sizes.state + _WEIGHT)


def _both(sizes: Sizes, time: int, topology: Topology) -> list[float]:
    return _to_listeners(topology, sizes.state + sizes.gradient)


def _tracked(sizes: Sizes, time: int, topology: Topology) -> list[float]:
    return _to_listeners(topology, sizes.state + (sizes.gradient if time else 0))


def _in_spells(sizes: Sizes, time: int, topology: Topology) -> list[float]:
    own = sizes.setup.config.consensus
    quiet = time % (own.quiet_steps + own.mixing_steps) < own.quiet_steps
    return _to_listeners(topology, 0 if quiet else sizes.state)


def _in_pairs(sizes: Sizes, time: int, topology: Topology) -> list[float]:
    config = sizes.setup.config
    if (time + 1) % (config.consensus.quiet_steps + 1):
        return [0.0] * config.agents
    met = pairs(topology, config.seed, time)
    return [float(sizes.state if i in met else 0) for i in range(config.agents)]


STEPS: dict[str, Callable[[Sizes, int, Topology], list[float]]] = {
    "cdsgd": _states,
    "cdmsgd": _states,
    "sgp": _pushed,
    "cga": _both,
    "gradient-tracking": _tracked,
    "swarm": _in_pairs,
    "ldsgd": _in_spells,
}
