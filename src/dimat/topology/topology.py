"""A graph of agents and its mixing matrix: what is exchanged at one time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

import networkx as nx
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Topology:
    """A connected graph of agents and its mixing matrix.

    Args:
        name: How the graph was asked for.
        graph: Nodes 0 … n-1. Where it is directed, an edge (i, j) means that j hears i.
        pi: (n, n) mixing matrix; row i is what agent i listens to.
    """

    name: str
    graph: nx.Graph[int]
    pi: Matrix

    @property
    def num_agents(self) -> int:
        """Number of agents."""
        return int(self.graph.number_of_nodes())

    @property
    def directed(self) -> bool:
        """Whether hearing someone does not mean being heard."""
        return bool(self.graph.is_directed())

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether rows and columns of the mixing matrix sum to 1, so that mixing keeps the mean."""
        sums = np.concatenate([self.pi.sum(0), self.pi.sum(1)])
        return bool((np.abs(sums - 1) <= TOLERANCE).all())

    def at(self, time: int) -> Topology:
        """The topology at a time: the same at all times."""
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
    def spectral_gap(self) -> float:
        """1 minus the second largest modulus: how fast disagreement is mixed away, in [0, 1]."""
        return 1.0 - self.second_eigenvalue

    @cached_property
    def root(self) -> int:
        """The graph's center (the lowest number, if there are several)."""
        return int(min(nx.center(self.graph)))

    def tree(self) -> list[tuple[int, int]]:
        """(parent, child) edges of a breadth-first tree from the root, the same at every agent."""
        edges = nx.bfs_edges(self.graph, self.root, sort_neighbors=sorted)
        return [(int(parent), int(child)) for parent, child in edges]


def is_directed(graph: nx.Graph[int]) -> TypeGuard[nx.DiGraph[int]]:
    """Whether hearing someone does not mean being heard."""
    return bool(graph.is_directed())
