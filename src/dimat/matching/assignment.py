"""From scores to the permutation that maximizes their sum, group by group, inside groups too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dimat.symmetry import Permutation, Symmetry
from dimat.symmetry.units import Ints

Floats = NDArray[np.float64]
# For a group the score of every (our unit, their unit), over all its cells, in cell order.
Scores = Mapping[str, Floats]
TIE = 1e-9  # what staying in place is worth, so that ties and dead units do not move


def solve_assignment(score: Floats) -> Ints:
    """The assignment of columns to rows with the largest total score; ties go to the identity.

    If every row's best column is a different one, that is the optimum and no solver is needed.
    """
    score = score + TIE * np.eye(len(score))
    best = score.argmax(1)
    if len(np.unique(best)) == len(best):
        return np.asarray(best, np.int64)
    columns: Ints = linear_sum_assignment(score, maximize=True)[1].astype(np.int64)
    return columns


def assign(symmetry: Symmetry, scores: Scores) -> Permutation:
    """The element of the symmetry with (nearly) the largest total score.

    Plain groups are solved exactly. A group with groups inside (attention heads, convolution
    groups) is solved over blocks, the score of a pair of blocks being that of its best inner
    assignment; that is exact where every inner group belongs to one outer group.

    Args:
        symmetry: What may be permuted.
        scores: For each group (N, N), N = cells x size; a group without scores follows its inner
            groups, or stays.
    """
    solver = _Solver(symmetry, scores)
    slots: dict[int, Ints] = {}
    for number, group in solver.numbered:
        family = symmetry.structure.families[number]
        moves = symmetry.structure.moves(slots)
        rows = []
        for cell in range(group.cells):
            target = symmetry.structure.cell_of[moves[family.cells[cell, 0]]]
            rows.append(solve_assignment(solver.pair_scores(number, cell, int(target))))
        slots[number] = np.stack(rows)
    names = dict(zip(symmetry.group_families, symmetry.names, strict=True))
    return Permutation({names[f]: own for f, own in slots.items()}, symmetry.digest)


class _Solver:
    def __init__(self, symmetry: Symmetry, scores: Scores) -> None:
        self.structure = symmetry.structure
        pairs = zip(symmetry.group_families, symmetry.groups, strict=True)
        self.numbered = sorted(pairs, key=lambda pair: pair[0])
        self.scores = {f: scores[g.name] for f, g in self.numbered if g.name in scores}
        self.inner = {f: self._inner_cells(f) for f, _ in self.numbered}
        self._values: dict[tuple[int, int, int], float] = {}

    def _inner_cells(self, outer: int) -> dict[int, list[list[int]]]:
        """For each group directly inside ``outer``: its cells under each of outer's units."""
        found: dict[int, list[list[int]]] = {}
        for number, _ in self.numbered:
            if number <= outer:
                continue
            cells: list[list[int]] = [[] for _ in range(self.structure.families[outer].cells.size)]
            position = {int(u): k for k, u in enumerate(self.structure.families[outer].cells.flat)}
            for cell, unit in enumerate(self.structure.families[number].cells[:, 0]):
                for owner in self._owners_in(int(unit), outer):
                    cells[position[owner]].append(cell)
            if any(cells):
                found[number] = cells
        return found

    def _owners_in(self, unit: int, outer: int) -> set[int]:
        """Owners of a unit in the family ``outer``, through families that only follow."""
        family = self.structure.families[self.structure.family_of[unit]]
        found: set[int] = set()
        groups = {f for f, _ in self.numbered}
        for owner in family.owners[self.structure.cell_of[unit]]:
            own_family = int(self.structure.family_of[owner])
            if own_family == outer:
                found.add(int(owner))
            elif own_family not in groups:
                found |= self._owners_in(int(owner), outer)
        return found

    def pair_scores(self, number: int, cell: int, target: int) -> Floats:
        """(size, size) scores of our units in ``cell`` with theirs in ``target``."""
        size = self.structure.families[number].size
        ours, theirs = (
            slice(cell * size, (cell + 1) * size),
            slice(target * size, (target + 1) * size),
        )
        own = self.scores.get(number)
        score = np.zeros((size, size)) if own is None else own[ours, theirs].copy()
        for inner, cells in self.inner[number].items():
            mine, other = cells[ours], cells[theirs]
            for a in range(size):
                for b in range(size):
                    for c, d in zip(mine[a], other[b], strict=False):
                        score[a, b] += self._value(inner, c, d)
        return score

    def _value(self, number: int, cell: int, target: int) -> float:
        """The best total score of a pair of cells."""
        key = (number, cell, target)
        if key not in self._values:
            score = self.pair_scores(number, cell, target)
            chosen = solve_assignment(score)
            self._values[key] = float(score[np.arange(len(score)), chosen].sum())
        return self._values[key]


@dataclass(frozen=True)
class Matching:
    """A permutation of their units, and how well it fits.

    Args:
        permutation: Applied to their state, it puts their units in our order.
        similarity: For each group with scores the mean score of matched units (a correlation).
    """

    permutation: Permutation
    similarity: Mapping[str, float]


def matching(symmetry: Symmetry, scores: Scores) -> Matching:
    """Assign, and measure the fit."""
    permutation = assign(symmetry, scores)
    moves = symmetry.moves(permutation)
    similarity = {
        name: float(score[np.arange(len(score)), unit_order(symmetry, moves, name)].mean())
        for name, score in scores.items()
    }
    return Matching(permutation, similarity)


def unit_order(symmetry: Symmetry, moves: Ints, name: str) -> Ints:
    """For each unit of a group, counted in cell order, the one that takes its place."""
    number = symmetry.group_families[symmetry.names.index(name)]
    family = symmetry.structure.families[number]
    structure = symmetry.structure
    moved = moves[family.cells]
    return (structure.cell_of[moved] * family.size + structure.slot_of[moved]).ravel()


def permute_scores(
    symmetry: Symmetry, scores: Scores, ours: Permutation, theirs: Permutation
) -> dict[str, Floats]:
    """The scores that the same two models would have after their units are permuted."""
    rows, columns = symmetry.moves(ours), symmetry.moves(theirs)
    return {
        name: score[np.ix_(unit_order(symmetry, rows, name), unit_order(symmetry, columns, name))]
        for name, score in scores.items()
    }


def add_scores(parts: list[Scores], weights: list[float]) -> dict[str, Floats]:
    """The weighted sum of scores of the same groups."""
    return {
        name: sum((w * p[name] for w, p in zip(weights, parts, strict=True)), np.zeros(()))
        for name in parts[0]
    }
