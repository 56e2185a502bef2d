"""A topology by name, built and checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dimat.errors import ConfigError, TopologyError, did_you_mean
from dimat.topology.edges import read_edges
from dimat.topology.graphs import TOPOLOGIES, check_connected
from dimat.topology.mixing import MIXING, check_mixing_matrix
from dimat.topology.topology import Topology


def build_topology(
    name: str,
    agents: int,
    *,
    mixing: str = "metropolis",
    path: str | None = None,
    shard_sizes: Sequence[int] | None = None,
) -> Topology:
    """A topology by name, checked.

    Args:
        name: One of :data:`TOPOLOGIES`, or ``edges`` with ``path``.
        agents: Number of agents, >= 1.
        mixing: One of :data:`MIXING`.
        path: A file with one edge "i j" a line, for ``edges``.
        shard_sizes: Images per agent, for ``shard-size``.

    Raises:
        ConfigError: For an unknown name or rule.
        TopologyError: For a graph that is not connected or cannot have this many agents, or a
            matrix that breaks its rules.
    """
    if agents < 1:
        raise TopologyError(f"setting 'agents' is {agents}: must be >= 1")
    if name != "edges" and name not in TOPOLOGIES:
        known = [*TOPOLOGIES, "edges"]
        raise ConfigError(
            f"setting 'topology.name' is '{name}': no such topology; {did_you_mean(name, known)}"
        )
    if mixing not in MIXING:
        raise ConfigError(
            f"setting 'topology.mixing' is '{mixing}': no such rule; {did_you_mean(mixing, MIXING)}"
        )
    graph = read_edges(path, agents) if name == "edges" else TOPOLOGIES[name](agents)
    check_connected(graph)
    weights = np.ones(agents) if mixing != "shard-size" else np.asarray(shard_sizes, np.float64)
    if weights.shape != (agents,) or not (weights > 0).all():
        raise TopologyError("mixing 'shard-size' needs the shard size of every agent, > 0")
    pi = MIXING[mixing](graph, weights)
    check_mixing_matrix(pi, graph, weights)
    return Topology(name, graph, pi)
