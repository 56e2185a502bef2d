"""One unit order for all agents: permutations composed down a tree and refined in sweeps.

What travels are integer permutations, never matrices: the correlations of two neighbors are
measured once, on their states as they are, and permuted along with the units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.matching.assignment import Scores, add_scores, assign, permute_scores
from dimat.symmetry import Permutation, Symmetry


class Listener(Protocol):
    """The part of a member that refinement needs."""

    @property
    def agent(self) -> int:
        """Its number."""
        ...

    @property
    def neighbors(self) -> list[int]:
        """The agents it talks to."""
        ...

    @property
    def weights(self) -> list[float]:
        """Mixing weights: its own, then each neighbor's."""
        ...


def toward_parent(symmetry: Symmetry, scores: Scores) -> Permutation:
    """Our units put in the parent's order, from the scores of (parent, us)."""
    return assign(symmetry, scores)


def refine(
    symmetry: Symmetry,
    scores: Mapping[int, Scores],
    gauges: Mapping[int, Permutation],
    me: Listener,
) -> Permutation:
    """Our permutation, matched again to all neighbors at once in their current order.

    Args:
        symmetry: Of the model.
        scores: For each neighbor the scores (their units, our units) of the unpermuted states.
        gauges: The current permutation of every neighbor and of ourselves.
        me: Who we are.

    Returns:
        The permutation with the largest similarity to the neighbors, weighted as they are mixed.
    """
    ours = gauges[me.agent]
    parts = [permute_scores(symmetry, scores[j], gauges[j], ours) for j in me.neighbors]
    step = assign(symmetry, add_scores(list(parts), me.weights[1:]))
    return symmetry.compose(step, ours)


def colors(graph: nx.Graph[int]) -> list[frozenset[int]]:
    """Agents in independent sets, the same at every agent."""
    coloring = nx.greedy_color(graph, strategy="largest_first")
    count = max(coloring.values(), default=-1) + 1
    return [frozenset(i for i, c in coloring.items() if c == k) for k in range(count)]


def encode(permutation: Permutation) -> dict[str, Tensor]:
    """A permutation as a message of 32-bit integers."""
    return {
        name: torch.from_numpy(slots.astype(np.int32)) for name, slots in permutation.slots.items()
    }


def decode(symmetry: Symmetry, message: Mapping[str, Tensor]) -> Permutation:
    """The permutation in a message, checked.

    Raises:
        StructureError: If a group is missing, has another size, or is not permuted one to one.
    """
    slots = {}
    for group in symmetry.groups:
        value = message.get(group.name)
        if value is None or tuple(value.shape) != (group.cells, group.size):
            found = None if value is None else tuple(value.shape)
            raise StructureError(
                f"permutation of group '{group.name}' has shape {found}, "
                f"expected {(group.cells, group.size)}"
            )
        rows = value.numpy().astype(np.int64)
        if not np.array_equal(np.sort(rows, 1), np.tile(np.arange(group.size), (group.cells, 1))):
            raise StructureError(f"permutation of group '{group.name}' is not one to one")
        slots[group.name] = rows
    return Permutation(slots, symmetry.digest)
