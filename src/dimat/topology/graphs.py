"""Undirected graphs of agents by name, and the check that a graph is connected."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import networkx as nx

from dimat.errors import TopologyError


def ring(agents: int) -> nx.Graph[int]:
    """The ring: every agent talks to the next and the previous one."""
    return _cleaned(nx.cycle_graph(agents))


def full(agents: int) -> nx.Graph[int]:
    """The full graph: every agent talks to every other."""
    return _cleaned(nx.complete_graph(agents))


def star(agents: int) -> nx.Graph[int]:
    """The star: every agent talks to agent 0."""
    return _cleaned(nx.star_graph(agents - 1))


def torus(agents: int) -> nx.Graph[int]:
    """The torus: a grid that wraps around, as square as the number of agents allows."""
    rows = max(r for r in range(1, int(agents**0.5) + 1) if agents % r == 0)
    if rows == 1 and agents > 3:
        raise TopologyError(
            f"a torus of {agents} agents is only a ring: use a number with two factors, or ring"
        )
    grid = nx.grid_2d_graph(rows, agents // rows, periodic=True)
    return _cleaned(nx.convert_node_labels_to_integers(grid, ordering="sorted"))


def exponential(agents: int) -> nx.Graph[int]:
    """The exponential graph: agent i talks to i ± 1, i ± 2, i ± 4, …."""
    return _cleaned(nx.circulant_graph(agents, powers_of_two(agents)))


def bipartite(agents: int) -> nx.Graph[int]:
    """Two hubs, the last two agents, to both of which every other agent talks."""
    if agents < 3:
        raise TopologyError(
            f"topology 'bipartite' has 2 hubs: {agents} agents are too few, use >= 3"
        )
    return nx.Graph(nx.complete_bipartite_graph(agents - 2, 2))


UNDIRECTED: dict[str, Callable[[int], nx.Graph[int]]] = {
    "ring": ring,
    "full": full,
    "star": star,
    "torus": torus,
    "exponential": exponential,
    "bipartite": bipartite,
}


def powers_of_two(agents: int) -> list[int]:
    """The offsets 1, 2, 4, … < ``agents`` of exponential graphs.

    >>> powers_of_two(8), powers_of_two(9), powers_of_two(1)
    ([1, 2, 4], [1, 2, 4, 8], [])
    """
    return [2**k for k in range((agents - 1).bit_length())]


def is_directed(graph: nx.Graph[int]) -> TypeGuard[nx.DiGraph[int]]:
    """Whether a graph is directed: to hear an agent is not to be heard by it.

    Args:
        graph: A graph of agents.
    """
    return bool(graph.is_directed())


def check_connected(graph: nx.Graph[int]) -> None:
    """Refuse a graph that is not connected, or a directed one that is not strongly connected.

    Args:
        graph: A graph of agents.

    Raises:
        TopologyError: If it is not, with two of its parts.
    """
    if is_directed(graph):
        found, word = nx.strongly_connected_components(graph), "strongly connected"
    else:
        found, word = nx.connected_components(graph), "connected"
    parts = sorted(sorted(part) for part in found)
    if len(parts) > 1:
        shown = " and ".join(str(part[:8]) for part in parts[:3])
        raise TopologyError(
            f"the graph is not {word}: {len(parts)} parts, such as agents {shown}; add edges"
        )


def _cleaned(graph: nx.Graph[int]) -> nx.Graph[int]:
    """The graph without edges from an agent to itself."""
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph
