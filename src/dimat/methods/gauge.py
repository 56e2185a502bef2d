"""One unit order for all agents: whose order a state is in, and permutations that travel.

What travels are integer permutations, never matrices: the correlations of two neighbors are
measured once, on their states as they are, and permuted along with the units.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.matching.assignment import Floats, Scores, add_scores, assign, permute_scores
from dimat.matching.ties import match_units
from dimat.symmetry import Analysis, Permutation, Symmetry


@dataclass(frozen=True)
class GaugeId:
    """The name of a unit order. States of one id are mixed as they are, others are matched first.

    Args:
        root: The agent whose order it was.
        generation: The round in which others adopted it; 0 for an agent's own order, which nobody
            shares. So an agent that comes back without its past is not taken for who it was.
        life: Of which start of that agent, where its process can be started again without its past.
    """

    root: int
    generation: int = 0
    life: int = 0

    @property
    def parts(self) -> list[int]:
        """As numbers."""
        return [self.root, self.generation, self.life]

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Where two orders meet, the lower one stays; an order that nobody shares gives way."""
        return self.generation == 0, self.root, self.generation


class Listener(Protocol):
    """The part of a round's context that refinement needs."""

    @property
    def agent(self) -> int:
        """Number of the agent."""
        ...

    @property
    def neighbors(self) -> list[int]:
        """The agents it talks to."""
        ...

    @property
    def weights(self) -> list[float]:
        """Mixing weights: its own, then each neighbor's."""
        ...


def match_to(
    analysis: Analysis,
    scores: Scores,
    into: Mapping[str, Tensor],
    moved: Mapping[str, Tensor],
    *,
    turned: bool = False,
) -> Permutation:
    """The permutation of a state's units into another's order.

    Args:
        analysis: Of the model.
        scores: For each group (units in that order, units to be moved).
        into: The state in that order; tells apart units that score alike.
        moved: The state whose units the permutation is to move.
        turned: Solve with rows and columns exchanged, and invert. Two agents who have the same
            scores and states, and agree on whose units are the rows, find permutations that are
            inverse to each other, whatever ties there are.
    """
    if not turned:
        return match_units(analysis, scores, into, moved)
    back = match_units(analysis, transposed(scores), moved, into)
    return analysis.symmetry.inverse(back)


def transposed(scores: Scores) -> dict[str, Floats]:
    """The scores with both sides exchanged."""
    return {name: score.T for name, score in scores.items()}


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


def cycle_error(
    symmetry: Symmetry, graph: nx.Graph[int], edges: Mapping[tuple[int, int], Permutation]
) -> float:
    """Share of units that do not come back to themselves around a cycle, in [0, 1].

    Args:
        symmetry: Of the model.
        graph: Of the agents.
        edges: For every (i, j) that share an edge the permutation of j's units into i's order.

    Returns:
        The mean over a cycle basis of the graph and over all edges there and back; 0 on a graph
        without edges. It is 0 exactly when there is one unit order that all permutations agree on.
    """
    cycles = [*nx.cycle_basis(graph), *([i, j] for i, j in graph.edges)]
    moved = [moved_around(symmetry, cycle, edges) for cycle in cycles]
    return float(np.mean(moved)) if moved else 0.0


def moved_around(
    symmetry: Symmetry, cycle: Sequence[int], edges: Mapping[tuple[int, int], Permutation]
) -> float:
    """Share of units that do not come back to themselves around one cycle of agents."""
    around = symmetry.identity()
    for i, j in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
        around = symmetry.compose(around, edges[i, j])
    return around.moved


# --- messages -------------------------------------------------------------------------------------


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
        rows = value.cpu().numpy().astype(np.int64)
        if not np.array_equal(np.sort(rows, 1), np.tile(np.arange(group.size), (group.cells, 1))):
            raise StructureError(f"permutation of group '{group.name}' is not one to one")
        slots[group.name] = rows
    return Permutation(slots, symmetry.digest)


def encode_ids(ids: Mapping[int, GaugeId]) -> dict[str, Tensor]:
    """The message of ids of unit orders, 12 bytes an agent; empty if there is no news."""
    rows = [(agent, own.root, own.generation) for agent, own in sorted(ids.items())]
    return {"gauges": torch.tensor(rows, dtype=torch.int32)} if rows else {}


def decode_ids(
    message: Mapping[str, Tensor], agents: Collection[int], who: str
) -> dict[int, GaugeId]:
    """What :func:`encode_ids` gave, checked.

    Args:
        message: The message.
        agents: Agents that it may speak of.
        who: Where it is from, for the error.

    Raises:
        StructureError: If it has another form, or speaks of others.
    """
    if not message:
        return {}
    table = message.get("gauges")
    if table is None or table.dim() != 2 or table.shape[1] != 3 or table.is_floating_point():
        raise StructureError(f"{who} do not fit: expected rows of (agent, root, generation)")
    found = {int(agent): GaugeId(int(root), int(g)) for agent, root, g in table.tolist()}
    for agent, own in found.items():
        if agent not in agents or own.root < 0 or own.generation < 0:
            raise StructureError(f"{who} do not fit: agent {agent} cannot be in {own}")
    return found
