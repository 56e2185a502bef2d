"""Topologies: graphs of agents and their mixing matrices, fixed or varying in time."""

from __future__ import annotations

from dimat.topology.build import TOPOLOGIES, build_topology
from dimat.topology.directed import directed_exponential, directed_ring
from dimat.topology.drawn import DRAWN, erdos_renyi, random_regular
from dimat.topology.dropout import Dropout
from dimat.topology.edges import read_edges
from dimat.topology.graphs import (
    bipartite,
    check_connected,
    exponential,
    full,
    ring,
    star,
    torus,
)
from dimat.topology.mixing import (
    MIXING,
    TOLERANCE,
    Matrix,
    check_mixing_matrix,
    check_pushing_matrix,
    definite,
    metropolis,
    push,
    shard_size,
    uniform,
)
from dimat.topology.options import GraphOptions
from dimat.topology.sequences import (
    SEQUENCES,
    Periodic,
    alternating_matchings,
    one_peer_exponential,
)
from dimat.topology.topology import Network, Topology, near

__all__ = [
    "DRAWN",
    "MIXING",
    "SEQUENCES",
    "TOLERANCE",
    "TOPOLOGIES",
    "Dropout",
    "GraphOptions",
    "Matrix",
    "Network",
    "Periodic",
    "Topology",
    "alternating_matchings",
    "bipartite",
    "build_topology",
    "check_connected",
    "check_mixing_matrix",
    "check_pushing_matrix",
    "definite",
    "directed_exponential",
    "directed_ring",
    "erdos_renyi",
    "exponential",
    "full",
    "metropolis",
    "near",
    "one_peer_exponential",
    "push",
    "random_regular",
    "read_edges",
    "ring",
    "shard_size",
    "star",
    "torus",
    "uniform",
]
