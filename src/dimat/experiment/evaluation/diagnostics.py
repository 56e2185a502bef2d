"""Diagnostics of a round over all agents, which no agent could measure, and none is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np

from dimat.matching.assignment import unit_order
from dimat.methods import RoundResult
from dimat.methods.gauge import moved_around
from dimat.state import State, consensus_distance
from dimat.symmetry import Permutation, Symmetry
from dimat.topology import Matrix, Network, Topology

Edges = Mapping[tuple[int, int], Permutation]
_MOST_UNITS = 600  # largest size n C of the permuted operator: its eigenvalues take 0.3 s


@dataclass(frozen=True)
class MergeSnapshot:
    """The merge of one round, at all agents.

    Args:
        topology: Graph and mixing matrix of the round.
        before: The state of every agent before the merge.
        results: The result of the merge at every agent.
        parameters: The state keys that are parameters.
        symmetry: The symmetry of the model; None if the method moves no units.
    """

    topology: Topology
    before: Sequence[State]
    results: Sequence[RoundResult]
    parameters: Sequence[str]
    symmetry: Symmetry | None

    @cached_property
    def edges(self) -> Edges:
        """The permutation of j's units into i's order for every (i, j), in the pairwise gauge."""
        if any(own.permutation is not None for own in self.results):
            return {}
        return {
            (i, j): p
            for i, own in enumerate(self.results)
            for j, p in own.report.alignments.items()
        }

    def pair(self, i: int, j: int) -> tuple[State, State]:
        """The states of two neighbors before the merge, in one unit order.

        Args:
            i: Number of one agent.
            j: Number of its neighbor.
        """
        moves = {k: self.results[k].permutation for k in (i, j)}
        if self.edges:
            there, back = self.edges.get((i, j)), self.edges.get((j, i))
            moves = {i: None, j: there} if there is not None else {i: back, j: None}
        first, second = (self._moved(self.before[k], moves[k]) for k in (i, j))
        return first, second

    def together(self, i: int, j: int) -> bool:
        """Whether :meth:`pair` is in one unit order: a spreading gauge may not have reached both.

        Args:
            i: Number of one agent.
            j: Number of its neighbor.
        """
        return self.results[i].gauge == self.results[j].gauge

    def describe(self) -> dict[str, object]:
        """The line of ``diagnostics.jsonl``, without the round and the loss barrier."""
        moves = self._frames if self.edges else [own.permutation for own in self.results]
        before = self._distance(self.before, moves)
        after = self._distance([own.state for own in self.results], self._frames)
        shrunk = after / before if before and after is not None else None
        return {
            "consensus_before": before,
            "consensus_after": after,
            "contraction": shrunk,
            "units_moved": self._units_moved(),
            "similarity": _means([own.report.similarity for own in self.results]),
            "margin": _means([own.report.margin for own in self.results]),
            "cycle_error": self._cycle_error(),
            "spectral_gap": self.topology.spectral_gap,
            "permuted_gap": self._permuted_gap(),
        }

    def _distance(
        self, states: Sequence[State], moves: Sequence[Permutation | None]
    ) -> float | None:
        """Consensus distance of states moved into one unit order; None if not all can be moved."""
        apart = len({own.gauge for own in self.results}) > 1
        if apart or (self.edges and None in moves):
            return None
        gauged = [self._moved(state, move) for state, move in zip(states, moves, strict=True)]
        return consensus_distance(gauged, self.parameters)

    def _moved(self, state: State, move: Permutation | None) -> State:
        return state if move is None or self.symmetry is None else self.symmetry.apply(move, state)

    @cached_property
    def _frames(self) -> list[Permutation | None]:
        """The permutation of each agent's units into agent 0's order, composed along a tree.

        For the pairwise gauge; None for agents that are not connected to agent 0 in this round.
        """
        found: list[Permutation | None] = [None] * len(self.before)
        if not self.edges or self.symmetry is None:
            return found
        found[0] = self.symmetry.identity()
        graph: nx.Graph[int] = nx.empty_graph(len(found))
        graph.add_edges_from(self.edges)
        for up, down in nx.bfs_edges(graph, 0):
            above = found[up]
            step = self.edges.get((up, down)) or self.symmetry.inverse(self.edges[down, up])
            found[down] = self.symmetry.compose(above, step) if above is not None else None
        return found

    def _units_moved(self) -> dict[str, float]:
        """Share of units that changed place, by group, mean over the permutations."""
        if self.symmetry is None:
            return {}
        moves = [own.permutation for own in self.results if own.permutation is not None]
        moves = moves or list(self.edges.values())
        return _means([units_moved(self.symmetry, move) for move in moves])

    def _cycle_error(self) -> dict[str, float] | None:
        """Share of units that do not come back to their place, over edges and over cycles."""
        edges, graph = self.edges, self.topology.graph
        if not edges or self.symmetry is None or self.topology.directed:
            return None
        own = self.symmetry
        there = [moved_around(own, [i, j], edges) for i, j in graph.edges]
        around = [moved_around(own, cycle, edges) for cycle in nx.cycle_basis(graph)]
        return {"edges": _mean(there), "cycles": _mean(around)}

    def _permuted_gap(self) -> float | None:
        r"""Spectral gap of :math:`W = [\pi_{ij} P_{ij}]`, for the largest group that fits.

        Eigenvalues of modulus 1 are left out: they belong to the mean of the units that
        permutations connect, which mixing keeps.
        """
        edges, n = self.edges, self.topology.num_agents
        if self.symmetry is None or not edges:
            return None
        sizes = {g.name: g.cells * g.size for g in self.symmetry.groups}
        fitting = {name: size for name, size in sizes.items() if n * size <= _MOST_UNITS}
        if not fitting:
            return None
        name = max(fitting, key=lambda own: fitting[own])
        operator = permuted_operator(self.symmetry, name, fitting[name], self.topology.pi, edges)
        moduli = np.abs(np.linalg.eigvals(operator))
        below = moduli[moduli < 1 - 1e-9]
        return 1.0 - float(below.max()) if len(below) else None


def of_training(
    network: Network, states: Sequence[State], parameters: Sequence[str]
) -> dict[str, object]:
    """The line of ``diagnostics.jsonl`` for a method that exchanges in steps, without the round.

    Args:
        network: The topology at all times.
        states: The state of every agent at the end of the round.
        parameters: The state keys that are parameters.
    """
    return {
        "consensus_after": consensus_distance(states, parameters),
        "spectral_gap": network.spectral_gap,
    }


def units_moved(symmetry: Symmetry, move: Permutation) -> dict[str, float]:
    """Share of units that a permutation moves to another place, by group."""
    moves = symmetry.moves(move)
    orders = {group.name: unit_order(symmetry, moves, group.name) for group in symmetry.groups}
    return {name: float(np.mean(own != np.arange(len(own)))) for name, own in orders.items()}


def permuted_operator(symmetry: Symmetry, name: str, size: int, pi: Matrix, edges: Edges) -> Matrix:
    r"""The (n C, n C) matrix of the blocks :math:`\pi_{ij}P_{ij}` for one group of C units.

    Args:
        symmetry: The symmetry of the model.
        name: Name of the group.
        size: Units of the group, C, over all its cells.
        pi: (n, n) mixing matrix.
        edges: The permutation of j's units into i's order for every (i, j).
    """
    n = len(pi)
    operator = np.zeros((n, size, n, size))
    for i in range(n):
        operator[i, :, i] = pi[i, i] * np.eye(size)
    for (i, j), move in edges.items():
        order = unit_order(symmetry, symmetry.moves(move), name)
        operator[i, :, j] = pi[i, j] * np.eye(size)[order]
    return operator.reshape(n * size, n * size)


def _means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name: None for own in parts for name in own}
    return {name: _mean([own[name] for own in parts if name in own]) for name in names}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
