"""Random graphs of agents by name: drawn until connected, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from random import Random

import networkx as nx

from dimat.errors import TopologyError
from dimat.topology.options import GraphOptions

_TRIES = 100


def random_regular(agents: int, options: GraphOptions) -> nx.Graph[int]:
    """A random graph in which every agent has ``degree`` neighbors, nearly uniform among these.

    Args:
        agents: Number of agents.
        options: The degree and the seed.

    Raises:
        TopologyError: If there is no such graph, or none that is connected.
    """
    degree = options.degree
    if not 0 <= degree < agents:
        raise TopologyError(
            f"setting 'topology.degree' is {degree}: {agents} agents have at most {agents - 1} "
            "neighbors; use a lower degree or more agents"
        )
    if degree * agents % 2:
        raise TopologyError(
            f"setting 'topology.degree' is {degree}: {agents} agents of {degree} neighbors have no "
            "whole number of edges; one of the two must be even"
        )
    return _connected(
        lambda random: nx.random_regular_graph(degree, agents, seed=random),
        options.seed,
        f"with topology.degree {degree}: use >= 3",
    )


def erdos_renyi(agents: int, options: GraphOptions) -> nx.Graph[int]:
    """A random graph in which every edge exists with ``probability``, independent of others.

    Args:
        agents: Number of agents.
        options: The probability and the seed.

    Raises:
        TopologyError: If no connected graph was drawn.
    """
    probability = options.probability
    enough = min(1.0, log(agents) / agents)
    return _connected(
        lambda random: nx.gnp_random_graph(agents, probability, seed=random),
        options.seed,
        f"with topology.probability {probability}: use more than ln(n)/n = {enough:.2f}",
    )


def _connected(draw: Callable[[Random], nx.Graph[int]], seed: int, way_out: str) -> nx.Graph[int]:
    """The first connected graph in a seeded series of draws, its agents and edges in order."""
    random = Random(seed)
    for _ in range(_TRIES):
        graph = draw(random)
        if nx.is_connected(graph):
            ordered: nx.Graph[int] = nx.empty_graph(len(graph))
            ordered.add_edges_from(sorted((min(edge), max(edge)) for edge in graph.edges))
            return ordered
    raise TopologyError(f"{_TRIES} random graphs were drawn, none connected, {way_out}")


DRAWN: dict[str, Callable[[int, GraphOptions], nx.Graph[int]]] = {
    "random-regular": random_regular,
    "erdos-renyi": erdos_renyi,
}
