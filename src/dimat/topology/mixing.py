"""How much each agent listens to whom: mixing matrices, and what they must obey."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np

from dimat.errors import TopologyError
from dimat.topology.topology import TOLERANCE, Matrix


def metropolis(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r"""Metropolis-Hastings: :math:`\pi_{ij} = 1 / (1 + \max(d_i, d_j))`, the rest on the diagonal.

    Symmetric and doubly stochastic on any graph.
    """
    pi = np.zeros((len(graph), len(graph)))
    for i, j in graph.edges:
        pi[i, j] = pi[j, i] = 1.0 / (1 + max(graph.degree(i), graph.degree(j)))
    return _completed(pi)


def uniform(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r""":math:`\pi_{ij} = 1 / (1 + d_i)` for itself and every neighbor: for regular graphs only."""
    degrees = sorted({int(degree) for _, degree in graph.degree})
    if len(degrees) > 1:
        raise TopologyError(
            f"mixing 'uniform' is not doubly stochastic where agents have {degrees[0]} to "
            f"{degrees[-1]} neighbors: use metropolis"
        )
    return _completed(_adjacency(graph) / (1.0 + degrees[0]))


def shard_size(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r"""A Metropolis-Hastings chain that keeps the mean weighted by shard size.

    .. math:: \pi_{ij} = \frac{1}{1 + \max(d_i, d_j)} \min(1, n_j / n_i)

    Rows sum to 1 and :math:`n_i\pi_{ij} = n_j\pi_{ji}`; columns need not sum to 1.
    """
    pi = metropolis(graph, weights)
    np.fill_diagonal(pi, 0.0)
    return _completed(pi * np.minimum(1.0, weights[None, :] / weights[:, None]))


def _adjacency(graph: nx.Graph[int]) -> Matrix:
    return np.asarray(nx.to_numpy_array(graph, range(len(graph))), np.float64)


def _completed(pi: Matrix) -> Matrix:
    np.fill_diagonal(pi, 1.0 - pi.sum(1))
    return pi


MIXING: dict[str, Callable[[nx.Graph[int], Matrix], Matrix]] = {
    "metropolis": metropolis,
    "uniform": uniform,
    "shard-size": shard_size,
}


def check_mixing_matrix(pi: Matrix, graph: nx.Graph[int], weights: Matrix | None = None) -> None:
    """Refuse a mixing matrix that would not keep the (weighted) mean.

    Args:
        pi: The matrix.
        graph: The graph it is to fit.
        weights: Of the mean that is to be kept; all equal if None.

    Raises:
        TopologyError: Naming the row or pair of agents.
    """
    n = graph.number_of_nodes()
    if pi.shape != (n, n) or not np.isfinite(pi).all() or (pi < -TOLERANCE).any():
        raise TopologyError(
            f"a mixing matrix for {n} agents is a finite, nonnegative {n}x{n} matrix, not "
            f"{'x'.join(map(str, pi.shape))} with values from {pi.min():.3g} to {pi.max():.3g}"
        )
    sums = pi.sum(1)
    worst = int(np.argmax(np.abs(sums - 1)))
    if abs(sums[worst] - 1) > TOLERANCE:
        raise TopologyError(f"row {worst} of the mixing matrix sums to {sums[worst]:.6g}, not 1")
    flow = pi * (np.ones(n) if weights is None else weights)[:, None]
    skew = np.abs(flow - flow.T)
    i, j = (int(k) for k in np.unravel_index(np.argmax(skew), skew.shape))
    if skew[i, j] > TOLERANCE * max(1.0, float(np.abs(flow).max())):
        raise TopologyError(
            f"the mixing matrix is not symmetric: agents {i} and {j} weigh each other "
            f"{pi[i, j]:.6g} and {pi[j, i]:.6g}"
        )
    allowed = _adjacency(graph) + np.eye(n)
    stray = np.argwhere((np.abs(pi) > TOLERANCE) & (allowed == 0))
    if len(stray):
        i, j = (int(k) for k in stray[0])
        raise TopologyError(
            f"the mixing matrix has a weight for agents {i} and {j}, who share no edge"
        )
