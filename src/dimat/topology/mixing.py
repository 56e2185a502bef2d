"""Mixing matrices: the rules that make them from a graph, and the checks that they must pass."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from dimat.errors import ConfigError, TopologyError, check_known

Matrix = NDArray[np.float64]
TOLERANCE = 1e-9


def metropolis(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r"""Metropolis-Hastings weights :math:`\pi_{ij} = 1 / (1 + \max(d_i, d_j))`.

    The rest of a row is on the diagonal. Symmetric and doubly stochastic on any undirected graph.
    """
    pi = np.zeros((len(graph), len(graph)))
    for i, j in graph.edges:
        pi[i, j] = pi[j, i] = 1.0 / (1 + max(graph.degree(i), graph.degree(j)))
    return _completed(pi)


def uniform(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r"""Uniform weights :math:`\pi_{ij} = 1 / (1 + d_i)` for an agent and all its neighbors.

    Doubly stochastic on regular graphs only.
    """
    degrees = sorted({int(degree) for _, degree in graph.degree})
    if len(degrees) > 1:
        raise TopologyError(
            f"mixing 'uniform' is not doubly stochastic where agents have {degrees[0]} to "
            f"{degrees[-1]} neighbors: use metropolis"
        )
    return _completed(adjacency(graph) / (1.0 + degrees[0]))


def shard_size(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r"""Metropolis-Hastings weights that keep the mean weighted by shard size.

    .. math:: \pi_{ij} = \frac{1}{1 + \max(d_i, d_j)} \min(1, n_j / n_i)

    Rows sum to 1 and :math:`n_i\pi_{ij} = n_j\pi_{ji}`; columns need not sum to 1.
    """
    pi = metropolis(graph, weights)
    np.fill_diagonal(pi, 0.0)
    return _completed(pi * np.minimum(1.0, weights[None, :] / weights[:, None]))


def push(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r"""Push weights :math:`\pi_{ij} = 1 / (1 + d_j)`: agent j, with d_j listeners, splits equally.

    Columns sum to 1, so that the sum over the agents is kept; rows need not, unless everyone hears
    and is heard by the same number. Push-sum divides by what a vector of ones becomes.

    References:
        Kempe et al., "Gossip-Based Computation of Aggregate Information", FOCS 2003.
    """
    heard = adjacency(graph) + np.eye(len(graph))
    return np.asarray(heard / heard.sum(0), np.float64)


MIXING: dict[str, Callable[[nx.Graph[int], Matrix], Matrix]] = {
    "metropolis": metropolis,
    "uniform": uniform,
    "shard-size": shard_size,
    "push": push,
}


def mixing_matrix(graph: nx.Graph[int], rule: str, weights: Matrix) -> Matrix:
    """The mixing matrix of a graph by a rule, checked.

    Args:
        graph: Agents 0 … n-1.
        rule: One of :data:`MIXING`, or ``auto``; see :func:`definite`.
        weights: (n,) weights > 0 of the mean that ``shard-size`` keeps.

    Raises:
        ConfigError: For an unknown rule, or one that needs an undirected graph.
        TopologyError: For a matrix that breaks its rules.
    """
    rule = definite(rule, directed=graph.is_directed())
    check_known("topology.mixing", rule, ["auto", *MIXING])
    if graph.is_directed() and rule != "push":
        raise ConfigError(
            f"setting 'topology.mixing' is '{rule}', which is for undirected graphs: use push or "
            "auto on a directed one"
        )
    pi = MIXING[rule](graph, weights)
    if rule == "push":
        check_pushing_matrix(pi, graph)
    else:
        check_mixing_matrix(pi, graph, weights if rule == "shard-size" else None)
    return pi


def definite(rule: str, *, directed: bool) -> str:
    """The name of a rule where ``auto`` is resolved: push on directed graphs, metropolis on others.

    Args:
        rule: One of :data:`MIXING`, or ``auto``.
        directed: Whether the graph is directed.
    """
    if rule != "auto":
        return rule
    return "push" if directed else "metropolis"


def check_mixing_matrix(pi: Matrix, graph: nx.Graph[int], weights: Matrix | None = None) -> None:
    """Refuse a mixing matrix that would not keep the (weighted) mean.

    Args:
        pi: The matrix.
        graph: The graph that it must fit.
        weights: Weights of the mean that must be kept; all equal if None.

    Raises:
        TopologyError: If a rule is broken, with the row or the pair of agents.
    """
    _check_values(pi, graph)
    _check_sums(pi.sum(1), "row")
    flow = pi * (np.ones(len(pi)) if weights is None else weights)[:, None]
    skew = np.abs(flow - flow.T)
    i, j = (int(k) for k in np.unravel_index(np.argmax(skew), skew.shape))
    if skew[i, j] > TOLERANCE * max(1.0, float(np.abs(flow).max())):
        raise TopologyError(
            f"the mixing matrix is not symmetric: agents {i} and {j} weigh each other "
            f"{pi[i, j]:.6g} and {pi[j, i]:.6g}"
        )
    _check_edges(pi, graph)


def check_pushing_matrix(pi: Matrix, graph: nx.Graph[int]) -> None:
    """Refuse a mixing matrix that would not keep the sum of what agents push.

    Args:
        pi: The matrix.
        graph: The graph that it must fit.

    Raises:
        TopologyError: If a rule is broken, with the column or the pair of agents.
    """
    _check_values(pi, graph)
    _check_sums(pi.sum(0), "column")
    _check_edges(pi, graph)


def adjacency(graph: nx.Graph[int]) -> Matrix:
    """The (n, n) adjacency matrix of a graph, whose row i has a 1 for every agent that i hears.

    Args:
        graph: Agents 0 … n-1.
    """
    return np.asarray(nx.to_numpy_array(graph, range(len(graph))).T, np.float64)


def keeps_sum(pi: Matrix) -> bool:
    """Whether columns sum to 1, so that mixing keeps the sum over the agents.

    Args:
        pi: (n, n) mixing matrix.
    """
    return bool((np.abs(pi.sum(0) - 1) <= TOLERANCE).all())


def _check_values(pi: Matrix, graph: nx.Graph[int]) -> None:
    n = graph.number_of_nodes()
    if pi.shape != (n, n) or not np.isfinite(pi).all() or (pi < -TOLERANCE).any():
        raise TopologyError(
            f"a mixing matrix for {n} agents is a finite, nonnegative {n}x{n} matrix, not "
            f"{'x'.join(map(str, pi.shape))} with values from {pi.min():.3g} to {pi.max():.3g}"
        )


def _check_sums(sums: Matrix, word: str) -> None:
    worst = int(np.argmax(np.abs(sums - 1)))
    if abs(sums[worst] - 1) > TOLERANCE:
        raise TopologyError(f"{word} {worst} of the mixing matrix sums to {sums[worst]:.6g}, not 1")


def _check_edges(pi: Matrix, graph: nx.Graph[int]) -> None:
    allowed = adjacency(graph) + np.eye(len(pi))
    stray = np.argwhere((np.abs(pi) > TOLERANCE) & (allowed == 0))
    if len(stray):
        i, j = (int(k) for k in stray[0])
        raise TopologyError(
            f"the mixing matrix has a weight for agents {i} and {j}, who share no edge"
        )


def _completed(pi: Matrix) -> Matrix:
    np.fill_diagonal(pi, 1.0 - pi.sum(1))
    return pi
