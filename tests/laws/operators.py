"""Mixing as a matrix: the operators whose spectra laws speak of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import networkx as nx
import numpy as np
import torch

from dimat.experiment.evaluation.diagnostics import permuted_operator
from dimat.methods import RoundResult
from dimat.state import State
from dimat.symmetry import Analysis, Permutation
from dimat.topology import Matrix, metropolis

Edges = Mapping[tuple[int, int], Permutation]


def stacked(states: Sequence[State]) -> np.ndarray:
    """All agents' entries in one vector, agent by agent."""
    return torch.cat([v.flatten() for s in states for v in s.values()]).numpy()


def unstacked(vector: np.ndarray, like: State) -> list[State]:
    """The states in such a vector."""
    sizes = [v.numel() for v in like.values()]
    rows = torch.from_numpy(vector).reshape(-1, sum(sizes)).split(sizes, 1)
    parts = [p.reshape(-1, *v.shape) for p, v in zip(rows, like.values(), strict=True)]
    return [dict(zip(like, own, strict=True)) for own in zip(*parts, strict=True)]


def as_matrix(linear: Callable[[list[State]], list[State]], like: State, agents: int) -> Matrix:
    """The matrix of a linear map of all agents' states."""
    size = agents * sum(v.numel() for v in like.values())
    return np.stack([stacked(linear(unstacked(e, like))) for e in np.eye(size)], 1)


def edges_of(merged: Sequence[RoundResult]) -> dict[tuple[int, int], Permutation]:
    return {(i, j): p for i, m in enumerate(merged) for j, p in m.report.alignments.items()}


def spectra(analysis: Analysis, graph: nx.Graph[int], edges: Edges) -> tuple[Matrix, Matrix, int]:
    """The mixing matrix, the operator [π_ij P_ij] on the units of one group, and their number."""
    group = analysis.symmetry.groups[0]
    pi = metropolis(graph, np.ones(len(graph)))
    return pi, permuted_operator(analysis.symmetry, group.name, group.size, pi, edges), group.size


def gap(operator: Matrix) -> float:
    """One minus the largest modulus of an eigenvalue that is not 1."""
    moduli = np.abs(np.linalg.eigvals(operator))
    return 1.0 - float(moduli[moduli < 1 - 1e-7].max(initial=0.0))
