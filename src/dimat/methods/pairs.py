"""Pairs of neighbors that meet, drawn at random and known to all agents."""

from __future__ import annotations

import networkx as nx
import numpy as np

from dimat.topology import Topology


def pairs(topology: Topology, seed: int, time: int) -> dict[int, int]:
    """A random maximal matching of the graph, the same at every agent: who meets whom.

    Args:
        topology: The graph; its edges carry both ways.
        seed: Seed of the matchings, >= 0.
        time: Number of the step or the round, >= 0; each has a matching of its own.

    Returns:
        The partner of every agent that has one.
    """
    random = np.random.default_rng(np.random.SeedSequence([seed, 83, time]))
    edges = sorted((min(edge), max(edge)) for edge in nx.Graph(topology.graph).edges)
    partner: dict[int, int] = {}
    for k in random.permutation(len(edges)):
        i, j = edges[k]
        if i not in partner and j not in partner:
            partner[i], partner[j] = j, i
    return partner
