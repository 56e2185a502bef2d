"""A topology: a graph of agents with its mixing matrix; and the protocol of those that vary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import networkx as nx
import numpy as np

from dimat.topology.graphs import is_directed
from dimat.topology.mixing import Matrix, keeps_sum


class Network(Protocol):
    """A graph of agents and a mixing matrix at every time.

    A time is a round for methods that exchange once a round, and a step for those that exchange in
    every step.
    """

    @property
    def name(self) -> str:
        """Name by which the network was built."""

    @property
    def num_agents(self) -> int:
        """Number of agents, >= 1."""

    @property
    def graph(self) -> nx.Graph[int]:
        """Graph of all edges that exist at some time, connected.

        Where it is directed, an edge (i, j) means that j hears i.
        """

    @property
    def directed(self) -> bool:
        """Whether the graph is directed at some time: to hear an agent is not to be heard by it."""

    @property
    def doubly_stochastic(self) -> bool:
        """Whether mixing keeps the mean at all times: rows and columns sum to 1."""

    @property
    def period(self) -> int | None:
        """Number of times after which the network repeats; 1 if it never changes, None: never."""

    @property
    def contraction(self) -> float:
        """Factor by which disagreement shrinks at every time, in [0, 1]; 0 if mixing ends it."""

    @property
    def spectral_gap(self) -> float:
        """Spectral gap, 1 - contraction, in [0, 1]: how fast disagreement is mixed away."""

    def at(self, time: int) -> Topology:
        """The topology at a time, the same whenever it is asked for.

        Args:
            time: Number of the round or step, >= 0, in any order.
        """


@dataclass(frozen=True)
class Topology:
    """A graph of agents and its mixing matrix: a :class:`Network` that never changes.

    Connected, unless it is one time of a network that varies.

    Args:
        name: Name by which the graph was built.
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
        """Whether the graph is directed: to hear an agent is not to be heard by it."""
        return is_directed(self.graph)

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether rows and columns of the mixing matrix sum to 1, so that mixing keeps the mean."""
        return keeps_sum(self.pi) and keeps_sum(self.pi.T)

    @property
    def period(self) -> int:
        """1: a fixed topology repeats at every time."""
        return 1

    def at(self, time: int) -> Topology:
        """The topology at a time: itself, at all times."""
        return self

    def neighbors(self, agent: int) -> list[int]:
        """The agents that an agent hears, in order.

        Args:
            agent: Number of the agent.
        """
        graph = self.graph
        return sorted(graph.predecessors(agent) if is_directed(graph) else graph.neighbors(agent))

    def listeners(self, agent: int) -> list[int]:
        """The agents that hear an agent, in order: its neighbors, where the graph is undirected.

        Args:
            agent: Number of the agent.
        """
        return sorted(self.graph.neighbors(agent))

    @cached_property
    def second_eigenvalue(self) -> float:
        """Modulus of the second largest eigenvalue of the mixing matrix; 0 for one agent."""
        symmetric = np.array_equal(self.pi, self.pi.T)  # three times as fast
        values = np.linalg.eigvalsh(self.pi) if symmetric else np.linalg.eigvals(self.pi)
        moduli = np.sort(np.abs(values))[::-1]
        return float(moduli[1]) if len(moduli) > 1 else 0.0

    @property
    def contraction(self) -> float:
        """Factor by which disagreement shrinks every time in the long run: second eigenvalue."""
        return self.second_eigenvalue

    @property
    def spectral_gap(self) -> float:
        """Spectral gap, 1 minus the second eigenvalue's modulus, in [0, 1]."""
        return 1.0 - self.second_eigenvalue


def near(network: Network, agent: int) -> list[int]:
    """The agents that an agent hears, or is heard by, at some time; in order.

    Args:
        network: The network.
        agent: Number of the agent.
    """
    graph = network.graph
    hears = graph.predecessors(agent) if is_directed(graph) else ()
    return sorted({*graph.neighbors(agent), *hears})
