"""Who talks to whom, and how much each listens: graphs and mixing matrices."""

from __future__ import annotations

from dimat.topology.build import build_topology
from dimat.topology.edges import read_edges
from dimat.topology.graphs import (
    TOPOLOGIES,
    bipartite,
    check_connected,
    exponential,
    full,
    ring,
    star,
    torus,
)
from dimat.topology.mixing import MIXING, check_mixing_matrix, metropolis, shard_size, uniform
from dimat.topology.topology import TOLERANCE, Matrix, Topology

__all__ = [
    "MIXING",
    "TOLERANCE",
    "TOPOLOGIES",
    "Matrix",
    "Topology",
    "bipartite",
    "build_topology",
    "check_connected",
    "check_mixing_matrix",
    "exponential",
    "full",
    "metropolis",
    "read_edges",
    "ring",
    "shard_size",
    "star",
    "torus",
    "uniform",
]
