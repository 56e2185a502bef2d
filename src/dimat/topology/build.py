"""Construction of a network by its name, with all checks."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import networkx as nx
import numpy as np

from dimat.errors import ConfigError, TopologyError, check_kind, check_known, shown
from dimat.topology.directed import DIRECTED
from dimat.topology.drawn import DRAWN
from dimat.topology.dropout import Dropout
from dimat.topology.edges import read_edges
from dimat.topology.graphs import UNDIRECTED, check_connected
from dimat.topology.mixing import Matrix, mixing_matrix
from dimat.topology.options import DEFAULTS, GraphOptions
from dimat.topology.sequences import SEQUENCES, Periodic
from dimat.topology.topology import Network, Topology

TOPOLOGIES = {**UNDIRECTED, **DIRECTED}
NETWORKS = (*TOPOLOGIES, *DRAWN, *SEQUENCES, "edges")


def build_topology(
    name: str,
    agents: int,
    *,
    mixing: str = "auto",
    options: GraphOptions = DEFAULTS,
    dropout: float = 0.0,
    shard_sizes: Sequence[int] | None = None,
) -> Network:
    """The network of a name, checked: a :class:`Topology`, unless it varies in time.

    Args:
        name: One of :data:`NETWORKS`.
        agents: Number of agents, >= 1.
        mixing: One of :data:`MIXING`, or auto: push on directed graphs, metropolis on others.
        options: Settings of graphs that are read from a file or drawn.
        dropout: Probability that an edge is missing at a time, in [0, 1).
        shard_sizes: Images per agent, for ``shard-size``.

    Raises:
        ConfigError: For an unknown name or rule, a rule that does not fit a directed graph, or a
            setting that is missing or out of its range.
        TopologyError: For a graph that is not connected or cannot have this many agents, or a
            matrix that breaks its rules.
    """
    check_kind("agents", agents, Integral, "a whole number >= 1")
    check_kind("options", options, GraphOptions, "a dimat.topology.GraphOptions")
    check_kind("dropout", dropout, Real, "a number in [0, 1)")
    if agents < 1:
        raise TopologyError(f"setting 'agents' is {agents}: must be >= 1")
    graphs = _graphs(name, agents, options)
    check_connected(nx.compose_all(graphs))
    weights = _weights(agents, shard_sizes if mixing == "shard-size" else np.ones(agents))
    turns = tuple(Topology(name, graph, mixing_matrix(graph, mixing, weights)) for graph in graphs)
    network = turns[0] if len(turns) == 1 else Periodic(name, turns)
    return network if dropout == 0 else Dropout(network, dropout, options.seed)


def _graphs(name: str, agents: int, options: GraphOptions) -> Sequence[nx.Graph[int]]:
    """The graphs of a network in their turns; one graph, if the network never changes."""
    check_known("topology.name", name, NETWORKS)
    if name in TOPOLOGIES:
        return [TOPOLOGIES[name](agents)]
    if name in DRAWN:
        return [DRAWN[name](agents, options)]
    if name in SEQUENCES:
        return SEQUENCES[name](agents)
    return [read_edges(options.path, agents, directed=options.directed)]


def _weights(agents: int, sizes: Sequence[int] | Matrix | None) -> Matrix:
    try:
        weights = np.asarray(sizes, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"'shard_sizes' is {shown(sizes)}: must be numbers") from error
    if weights.shape != (agents,) or not (weights > 0).all():
        raise TopologyError("mixing 'shard-size' needs the shard size of every agent, > 0")
    return weights
