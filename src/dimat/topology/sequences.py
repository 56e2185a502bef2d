"""Periodic networks, whose topologies take turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from dimat.text import brief
from dimat.topology.directed import hearing
from dimat.topology.graphs import powers_of_two
from dimat.topology.spectral import shrinkage
from dimat.topology.topology import Topology


@dataclass(frozen=True)
class Periodic:
    """A :class:`Network` of topologies that take turns.

    Args:
        name: Name by which it was built.
        turns: One topology or more of the same agents; each need not be connected, all together
            must be.
    """

    name: str
    turns: tuple[Topology, ...]

    __repr__ = brief

    @property
    def num_agents(self) -> int:
        """Number of agents."""
        return self.turns[0].num_agents

    @cached_property
    def graph(self) -> nx.Graph[int]:
        """Union of the graphs of all turns."""
        return nx.compose_all([turn.graph for turn in self.turns])

    @property
    def directed(self) -> bool:
        """Whether the graphs are directed."""
        return self.turns[0].directed

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether all mixing matrices are doubly stochastic."""
        return all(turn.doubly_stochastic for turn in self.turns)

    @property
    def period(self) -> int:
        """The number of turns."""
        return len(self.turns)

    @cached_property
    def contraction(self) -> float:
        """The geometric mean, over a period, of the factors that shrink disagreement, in [0, 1]."""
        matrices = [turn.pi for turn in self.turns]
        return shrinkage([matrices], doubly_stochastic=self.doubly_stochastic)

    @property
    def spectral_gap(self) -> float:
        """1 - contraction."""
        return 1.0 - self.contraction

    def at(self, time: int) -> Topology:
        """The topology whose turn a time is."""
        return self.turns[time % len(self.turns)]


def one_peer_exponential(agents: int) -> list[nx.Graph[int]]:
    """Graphs of the one-peer exponential network: at time t agent i hears i - 2^t only.

    The power starts over once it is n or more.

    References:
        Ying et al., "Exponential Graph is Provably Efficient for Decentralized Deep Training",
        NeurIPS 2021.
    """
    return [hearing(agents, [offset]) for offset in powers_of_two(agents) or [0]]


def alternating_matchings(agents: int) -> list[nx.Graph[int]]:
    """Graphs of alternating matchings of a ring, in which an agent talks to one other at most.

    There are 2 of them, or 3 if the number of agents is odd.
    """
    ring = [(i, (i + 1) % agents) for i in range(agents if agents > 2 else agents - 1)]
    odd = [ring.pop()] if agents > 2 and agents % 2 else []
    graphs = []
    for matching in filter(None, (ring[::2], ring[1::2], odd)):
        graph: nx.Graph[int] = nx.empty_graph(agents)
        graph.add_edges_from(matching)
        graphs.append(graph)
    return graphs or [nx.empty_graph(agents)]


SEQUENCES: dict[str, Callable[[int], list[nx.Graph[int]]]] = {
    "one-peer-exponential": one_peer_exponential,
    "alternating-matchings": alternating_matchings,
}
