"""A method and a graph that do not go together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dimat.errors import TopologyError
from dimat.methods.protocol import Method, Need
from dimat.topology import TOLERANCE, Topology

_INSTEAD = "use method 'sgp', which works on any strongly connected graph"


def check_needs(name: str, method: Method, topology: Topology) -> None:
    """Refuse a mixing matrix that a method cannot work with.

    Args:
        name: Of the method, for the message.
        method: The method.
        topology: Graph and matrix of one time.

    Raises:
        TopologyError: What it needs, where the matrix has it not, and the way out.
    """
    for need in sorted(method.needs):
        wrong = _CHECKS[need](topology)
        if wrong:
            doubly = need in ("rows", "columns") and {"rows", "columns"} <= method.needs
            rule = _RULES["doubly" if doubly else need]
            raise TopologyError(f"method '{name}' needs {rule}, but of '{topology.name}' {wrong}")


_RULES = {
    "rows": f"an average, rows of the mixing matrix that sum to 1 ({_INSTEAD})",
    "columns": "columns of the mixing matrix that sum to 1 (use topology.mixing 'auto')",
    "doubly": f"a doubly stochastic mixing matrix ({_INSTEAD}, or topology.mixing 'metropolis')",
    "two-way": f"edges that carry both ways (use an undirected graph; or {_INSTEAD})",
    "symmetric": "a symmetric mixing matrix (use an undirected graph and topology.mixing "
    "'metropolis', or mixing.chebyshev false)",
    "two-neighbors": "two neighbors of every agent to compare what they say (use another topology, "
    "such as ring, or exchange.robust none)",
}


def _sums(topology: Topology, axis: int, word: str) -> str:
    sums = topology.pi.sum(axis)
    worst = int(np.argmax(np.abs(sums - 1)))
    if abs(sums[worst] - 1) <= TOLERANCE:
        return ""
    return f"{word} {worst} sums to {sums[worst]:.4g}"


def _rows(topology: Topology) -> str:
    return _sums(topology, 1, "row")


def _columns(topology: Topology) -> str:
    return _sums(topology, 0, "column")


def _two_way(topology: Topology) -> str:
    return "edges are one-way" if topology.directed else ""


def _symmetric(topology: Topology) -> str:
    apart = np.abs(topology.pi - topology.pi.T)
    i, j = map(int, np.unravel_index(np.argmax(apart), apart.shape))
    if apart[i, j] <= TOLERANCE:
        return ""
    return f"entries {(i, j)} and {(j, i)} are {topology.pi[i, j]:.4g} and {topology.pi[j, i]:.4g}"


def _two_neighbors(topology: Topology) -> str:
    lonely = [i for i in range(topology.num_agents) if len(topology.neighbors(i)) == 1]
    return f"agent {lonely[0]} hears one only" if lonely else ""


_CHECKS: dict[Need, Callable[[Topology], str]] = {
    "rows": _rows,
    "columns": _columns,
    "two-way": _two_way,
    "symmetric": _symmetric,
    "two-neighbors": _two_neighbors,
}
