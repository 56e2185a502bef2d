"""Graphs of agents by name."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx

from dimat.errors import TopologyError


def ring(agents: int) -> nx.Graph[int]:
    """Everyone talks to the next and the previous."""
    return _cleaned(nx.cycle_graph(agents))


def full(agents: int) -> nx.Graph[int]:
    """Everyone talks to everyone."""
    return _cleaned(nx.complete_graph(agents))


def star(agents: int) -> nx.Graph[int]:
    """Everyone talks to agent 0."""
    return _cleaned(nx.star_graph(agents - 1))


def torus(agents: int) -> nx.Graph[int]:
    """A grid that wraps around, as square as the number of agents allows."""
    rows = max(r for r in range(1, int(agents**0.5) + 1) if agents % r == 0)
    if rows == 1 and agents > 3:
        raise TopologyError(
            f"a torus of {agents} agents is only a ring: use a number with two factors, or ring"
        )
    grid = nx.grid_2d_graph(rows, agents // rows, periodic=True)
    return _cleaned(nx.convert_node_labels_to_integers(grid, ordering="sorted"))


def exponential(agents: int) -> nx.Graph[int]:
    """Agent i talks to i ± 1, i ± 2, i ± 4, …."""
    offsets = [2**k for k in range(max(agents - 1, 0).bit_length()) if 2**k < agents]
    return _cleaned(nx.circulant_graph(agents, offsets))


def bipartite(agents: int) -> nx.Graph[int]:
    """Two hubs (the last two agents), and everyone else talks to both."""
    if agents < 3:
        raise TopologyError(
            f"topology 'bipartite' has 2 hubs: {agents} agents are too few, use >= 3"
        )
    return nx.Graph(nx.complete_bipartite_graph(agents - 2, 2))


def _cleaned(graph: nx.Graph[int]) -> nx.Graph[int]:
    """Without edges from an agent to itself."""
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph


def check_connected(graph: nx.Graph[int]) -> None:
    """Refuse a graph in which news cannot reach everyone.

    Raises:
        TopologyError: Naming the parts.
    """
    parts = [sorted(part) for part in nx.connected_components(graph)]
    if len(parts) > 1:
        shown = " and ".join(str(part[:8]) for part in parts[:3])
        raise TopologyError(
            f"the graph is not connected: {len(parts)} parts, such as agents {shown}; add edges"
        )


TOPOLOGIES: dict[str, Callable[[int], nx.Graph[int]]] = {
    "ring": ring,
    "full": full,
    "star": star,
    "torus": torus,
    "exponential": exponential,
    "bipartite": bipartite,
}
