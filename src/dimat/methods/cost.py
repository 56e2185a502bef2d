"""What a method will cost, said beside what it does: for ``dimat estimate``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dimat.methods.gauge import GaugeId
from dimat.topology import Topology

if TYPE_CHECKING:
    from dimat.methods.ordering.plan import Plan


class Sizes(Protocol):
    """How long messages are."""

    @property
    def state(self) -> int:
        """Bytes of a state as it travels."""

    @property
    def gradient(self) -> int:
        """Bytes of a gradient as it travels."""


@dataclass(frozen=True)
class Meeting:
    """One round of a method that merges when a round begins, foreseen.

    Args:
        topology: Of the round.
        compared: For every agent, the number of neighbors it compares its units with.
        mixed: For every agent, the number of states it is mixed with.
        ids: For every agent whose unit order it says it is in, where it says that.
        plans: For every agent how its part of the graph comes into one order; None: it is.
    """

    topology: Topology
    compared: Sequence[int]
    mixed: Sequence[int]
    ids: Mapping[int, GaugeId] | None = None
    plans: Mapping[int, Plan | None] | None = None

    @property
    def matches(self) -> bool:
        """Whether any agent is matched."""
        return any(self.compared)


def degrees(topology: Topology) -> list[int]:
    """For every agent the number of its neighbors."""
    return [len(topology.neighbors(i)) for i in range(topology.num_agents)]


def everybody(topologies: Iterable[Topology], *, compared: bool) -> Iterator[Meeting]:
    """Rounds in which every agent is mixed with all its neighbors.

    Args:
        topologies: Of the rounds.
        compared: Whether it compares its units with theirs.
    """
    for topology in topologies:
        own = degrees(topology)
        yield Meeting(topology, own if compared else [0] * len(own), own)


def nobody(topologies: Iterable[Topology]) -> Iterator[Meeting]:
    """Rounds without a merge."""
    for topology in topologies:
        none = [0] * topology.num_agents
        yield Meeting(topology, none, none)


def to_listeners(topology: Topology, told: int) -> list[float]:
    """Bytes of every agent that tells so many to each who listens to it."""
    return [float(told * len(topology.listeners(i))) for i in range(topology.num_agents)]
