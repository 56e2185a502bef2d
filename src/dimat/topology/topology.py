"""A graph of agents and its mixing matrix, and what there is to know of any that vary in time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import networkx as nx
import numpy as np

from dimat.topology.graphs import is_directed
from dimat.topology.mixing import Matrix, keeps_sum


class Network(Protocol):
    """Who talks to whom, and how much each listens, at every time.

    What counts as a time is the method's: the round if it exchanges once a round, the step if it
    exchanges in every step.
    """

    @property
    def name(self) -> str:
        """How it was asked for."""

    @property
    def num_agents(self) -> int:
        """Number of agents, >= 1."""

    @property
    def graph(self) -> nx.Graph[int]:
        """Who ever talks to whom; connected. An edge (i, j) of a directed one means j hears i."""

    @property
    def directed(self) -> bool:
        """Whether at any time hearing someone does not mean being heard."""

    @property
    def doubly_stochastic(self) -> bool:
        """Whether mixing keeps the mean at all times: rows and columns sum to 1."""

    @property
    def period(self) -> int | None:
        """After how many times it repeats; 1 if it never changes, None if it never repeats."""

    @property
    def contraction(self) -> float:
        """The factor by which a time shrinks disagreement, in [0, 1]; 0 if it ends it."""

    @property
    def spectral_gap(self) -> float:
        """1 - contraction: how fast disagreement is mixed away, in [0, 1]."""

    def at(self, time: int) -> Topology:
        """The topology at a time >= 0: the same whenever it is asked for, in whichever order."""


@dataclass(frozen=True)
class Topology:
    """A graph of agents and its mixing matrix: a :class:`Network` that never changes.

    Connected, unless it is one time of a network that varies.

    Args:
        name: How the graph was asked for.
        graph: Nodes 0 … n-1. Where it is directed, an edge (i, j) means that j hears i.
        pi: (n, n) mixing matrix; row i is what agent i listens to.
    """

    name: str
    graph: nx.Graph[int]
    pi: Matrix

    def __repr__(self) -> str:
        """Name and size of the graph."""
        edges = self.graph.number_of_edges()
        return f"Topology({self.name!r}, {self.num_agents} agents, {edges} edges)"

    @property
    def num_agents(self) -> int:
        """Number of agents."""
        return int(self.graph.number_of_nodes())

    @property
    def directed(self) -> bool:
        """Whether hearing someone does not mean being heard."""
        return is_directed(self.graph)

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether rows and columns of the mixing matrix sum to 1, so that mixing keeps the mean."""
        return keeps_sum(self.pi) and keeps_sum(self.pi.T)

    @property
    def period(self) -> int:
        """1: it repeats at every time."""
        return 1

    def at(self, time: int) -> Topology:
        """The topology at a time: itself, at all times."""
        return self

    def neighbors(self, agent: int) -> list[int]:
        """The agents it hears, in order."""
        graph = self.graph
        return sorted(graph.predecessors(agent) if is_directed(graph) else graph.neighbors(agent))

    def listeners(self, agent: int) -> list[int]:
        """The agents that hear it, in order: its neighbors, where the graph is undirected."""
        return sorted(self.graph.neighbors(agent))

    @cached_property
    def second_eigenvalue(self) -> float:
        """Modulus of the second largest eigenvalue of the mixing matrix; 0 for one agent."""
        moduli = np.sort(np.abs(np.linalg.eigvals(self.pi)))[::-1]
        return float(moduli[1]) if len(moduli) > 1 else 0.0

    @property
    def contraction(self) -> float:
        """The second largest modulus: in the long run, disagreement shrinks by it every time."""
        return self.second_eigenvalue

    @property
    def spectral_gap(self) -> float:
        """1 minus the second largest modulus: how fast disagreement is mixed away, in [0, 1]."""
        return 1.0 - self.second_eigenvalue


def near(network: Network, agent: int) -> list[int]:
    """All that an agent ever hears or is heard by, in order."""
    graph = network.graph
    hears = graph.predecessors(agent) if is_directed(graph) else ()
    return sorted({*graph.neighbors(agent), *hears})
