"""Construction of a network by its name, with all checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

import networkx as nx
import numpy as np

from dimat.errors import ConfigError, TopologyError, check_kind, look_up, shown
from dimat.registry import Registry, a_function
from dimat.topology.directed import DIRECTED
from dimat.topology.drawn import DRAWN
from dimat.topology.dropout import Dropout
from dimat.topology.edges import read_edges
from dimat.topology.graphs import UNDIRECTED, check_connected
from dimat.topology.mixing import Matrix, mixing_matrix
from dimat.topology.options import DEFAULTS, GraphOptions
from dimat.topology.sequences import SEQUENCES, Periodic
from dimat.topology.topology import Network, Topology

Graphs: TypeAlias = "nx.Graph[int] | Sequence[nx.Graph[int]]"


def edges(agents: int, options: GraphOptions) -> nx.Graph[int]:
    """The graph of a file of edges."""
    return read_edges(options.path, agents, directed=options.directed)


# Functions of the number of agents, and of options if they ask for those, to a graph of the agents
# 0 … n-1, or to several that take turns. dimat's own stand in the dicts of the files that they are
# in: graphs.py, directed.py, drawn.py, sequences.py.
TOPOLOGIES: Registry[Callable[..., Graphs]] = Registry(
    "topology.name",
    "dimat.topologies",
    {**UNDIRECTED, **DIRECTED, **DRAWN, **SEQUENCES, "edges": edges},
    a_function("agents", options=True),
)


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
        name: One of :data:`TOPOLOGIES`.
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
    build = look_up("topology.name", name, TOPOLOGIES)
    return network_of(
        *(name, build, agents),
        mixing=mixing,
        options=options,
        dropout=dropout,
        shard_sizes=shard_sizes,
    )


def network_of(
    name: str,
    build: Callable[..., Graphs],
    agents: int,
    *,
    mixing: str = "auto",
    options: GraphOptions = DEFAULTS,
    dropout: float = 0.0,
    shard_sizes: Sequence[int] | None = None,
) -> Network:
    """The network of a function, as :data:`TOPOLOGIES` holds it, checked.

    Args and errors are those of :func:`build_topology`.
    """
    check_kind("agents", agents, Integral, "a whole number >= 1")
    check_kind("options", options, GraphOptions, "a dimat.topology.GraphOptions")
    check_kind("dropout", dropout, Real, "a number in [0, 1)")
    if agents < 1:
        raise TopologyError(f"setting 'agents' is {agents}: must be >= 1")
    graphs = _graphs(name, build, agents, options)
    check_connected(nx.compose_all(graphs))
    weights = _weights(agents, shard_sizes if mixing == "shard-size" else np.ones(agents))
    turns = tuple(Topology(name, graph, mixing_matrix(graph, mixing, weights)) for graph in graphs)
    network = turns[0] if len(turns) == 1 else Periodic(name, turns)
    return network if dropout == 0 else Dropout(network, dropout, options.seed)


def _graphs(
    name: str, build: Callable[..., Graphs], agents: int, options: GraphOptions
) -> Sequence[nx.Graph[int]]:
    """The graphs of a network that take turns; one, if it never changes."""
    asks = "options" in inspect.signature(build).parameters
    found = build(agents, options=options) if asks else build(agents)
    graphs: list[Any] = list(found) if isinstance(found, Sequence) and len(found) else [found]
    for graph in graphs:
        _check_nodes(name, graph, agents)
    return graphs


def _check_nodes(name: str, graph: object, agents: int) -> None:
    if not isinstance(graph, nx.Graph) or set(graph) != set(range(agents)):
        rule = f"a networkx graph of the nodes 0 … {agents - 1}"
        raise TopologyError(f"topology '{name}' of {agents} agents must be {rule}, or several")
    looped = sorted(nx.nodes_with_selfloops(graph))
    if looped:
        rule = "an edge to itself: leave it out, its own weight is the mixing matrix's"
        raise TopologyError(f"topology '{name}': agent {looped[0]} has {rule}")


def _weights(agents: int, sizes: Sequence[int] | Matrix | None) -> Matrix:
    try:
        weights = np.asarray(sizes, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"'shard_sizes' is {shown(sizes)}: must be numbers") from error
    if weights.shape != (agents,) or not (weights > 0).all():
        raise TopologyError("mixing 'shard-size' needs the shard size of every agent, > 0")
    return weights
