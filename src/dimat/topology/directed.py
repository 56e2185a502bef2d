"""Directed graphs of agents by name: an edge (i, j) means that j hears i."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import networkx as nx

from dimat.topology.graphs import powers_of_two


def directed_ring(agents: int) -> nx.DiGraph[int]:
    """The directed ring: agent i hears i - 1."""
    return hearing(agents, [1])


def directed_exponential(agents: int) -> nx.DiGraph[int]:
    """The directed exponential graph: agent i hears i - 1, i - 2, i - 4, …."""
    return hearing(agents, powers_of_two(agents))


def hearing(agents: int, offsets: Iterable[int]) -> nx.DiGraph[int]:
    """The graph in which every agent i hears i - offset for every offset, around the ring.

    Args:
        agents: Number of agents.
        offsets: Distances on the ring.

    >>> sorted(hearing(3, [1]).edges)
    [(0, 1), (1, 2), (2, 0)]
    """
    graph: nx.DiGraph[int] = nx.empty_graph(agents, create_using=nx.DiGraph)
    steps = [offset for offset in offsets if offset % agents]
    graph.add_edges_from(((i - step) % agents, i) for i in range(agents) for step in steps)
    return graph


DIRECTED: dict[str, Callable[[int], nx.Graph[int]]] = {
    "directed-ring": directed_ring,
    "directed-exponential": directed_exponential,
}
