"""Assignment: the permutation with the largest total score, group by group, inside groups too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dimat.errors import StructureError
from dimat.symmetry import Permutation, Symmetry
from dimat.symmetry.labels.units import Ints

Floats = NDArray[np.float64]
# For each group the score of every (our unit, their unit), over all its cells, in cell order.
Scores = Mapping[str, Floats]
NEVER = -1e9  # a score that no assignment can afford
_LARGE = 256  # units of a group that takes longer (1 ms) than starting a thread for it
_ROUNDING = 1e-15  # of sums of scores
_PASSES = 100  # of a search for prices, which takes some 15 of them
TIE = 1e-9  # a bonus for staying in place, so that ties and dead units do not move


def solve_assignment(score: Floats, tie: float = TIE) -> Ints:
    """The assignment of columns to rows with the largest total score; ties go to the identity.

    If every row's best column is a different one, that is the optimum and no solver is needed.

    Args:
        score: (units, units) score of every row with every column.
        tie: Bonus of a row for its own column.

    Raises:
        StructureError: If a score is not finite.
    """
    if not np.isfinite(score).all():
        raise StructureError(
            "units cannot be compared: some scores are not finite; the states are, or are nearly, "
            "out of range"
        )
    score = score.copy()
    np.fill_diagonal(score, score.diagonal() + tie)
    best = score.argmax(1)
    if (np.bincount(best, minlength=len(best)) == 1).all():
        return np.asarray(best, np.int64)
    columns: Ints = linear_sum_assignment(score, maximize=True)[1].astype(np.int64)
    return columns


def less_prices(score: Floats, columns: Ints) -> Floats:
    r"""The scores less a price of each row and each column, by which every row's own is its best.

    .. math:: C_{ij} - u_i - v_j \le 0, \quad C_{i\sigma(i)} = u_i + v_{\sigma(i)}

    Prices are the same for all assignments, so none changes its rank; but a solver that otherwise
    has long to search among scores that nearly tie finds :math:`\sigma` at once, and what differs
    from it little soon. Prices exist if :math:`\sigma` is optimal (they are the solution of the
    dual problem, here by the method of Bellman and Ford); if it is not, the scores stay as they
    are.

    Args:
        score: (units, units) score of every row with every column.
        columns: (units,) column of every row, :math:`\sigma`.
    """
    over = score[:, columns] - score[np.arange(len(score)), columns][:, None]
    if (over + over.T).max(initial=0.0) > _ROUNDING:  # two rows that would rather swap
        return score
    price = np.zeros(len(score))  # of the columns, in the order of their rows
    for _ in range(_PASSES):
        raised = np.maximum(price, (over + price[:, None]).max(0, initial=-np.inf))
        if (raised - price).max(initial=0.0) <= _ROUNDING:
            less: Floats = score.copy()
            less[:, columns] = over - raised + price[:, None]
            return less
        price = raised
    return score


def assign(
    symmetry: Symmetry, scores: Scores, only: Collection[str] | None = None, tie: float = TIE
) -> Permutation:
    """The element of the symmetry with (nearly) the largest total score.

    Plain groups are solved exactly. A group with groups inside (attention heads, convolution
    groups) is solved over blocks, the score of a pair of blocks being that of its best inner
    assignment. That is exact where every inner group belongs to one outer group; where it belongs
    to two, the first is solved as if the second were free for every pair.

    Args:
        symmetry: Symmetry of the model.
        scores: For each group (N, N), N = cells x size; a group without scores follows its inner
            groups, or stays.
        only: Names of the groups that may move; all if None. The others keep their order, inside
            cells that may move.
        tie: Bonus of a unit for staying in its place.

    Raises:
        StructureError: If a score is not finite.
    """
    solver = _Solver(symmetry, scores, only, tie)
    slots = solver.solve_plain()
    for number, group in solver.numbered:
        if number in slots:
            continue
        family = symmetry.structure.families[number]
        moves = solver.settle(slots)
        rows = []
        for cell in range(group.cells):
            target = symmetry.structure.cell_of[moves[family.cells[cell, 0]]]
            rows.append(solver.best(solver.pair_scores(number, cell, int(target))))
        slots[number] = np.stack(rows)
    still = symmetry.identity().slots if only is not None else {}
    names = dict(zip(symmetry.group_families, symmetry.names, strict=True))
    return Permutation({**still, **{names[f]: own for f, own in slots.items()}}, symmetry.digest)


class _Solver:
    """The assignment problems of one :func:`assign`: solved groups, and values of pairs of cells.

    A group is solved in the order of families, so owners come before what is inside them.
    """

    def __init__(
        self, symmetry: Symmetry, scores: Scores, only: Collection[str] | None, tie: float
    ) -> None:
        self.structure = symmetry.structure
        self.best = partial(solve_assignment, tie=tie)
        pairs = zip(symmetry.group_families, symmetry.groups, strict=True)
        free = [pair for pair in pairs if only is None or pair[1].name in only]
        self.numbered = sorted(free, key=lambda pair: pair[0])
        self.scores = {f: scores[g.name] for f, g in self.numbered if g.name in scores}
        self.inner = {f: self._inner_cells(f) for f, _ in self.numbered}
        self._values: dict[tuple[int, int, int], float] = {}
        self._moves = np.arange(self.structure.count, dtype=np.int64)
        self._open: set[int] = set()

    def settle(self, slots: Mapping[int, Ints]) -> Ints:
        """Take over the solved groups; for every unit the one that takes its place so far."""
        self._moves = self.structure.moves(slots)
        self._open = {number for number, _ in self.numbered if number not in slots}
        for number, family in enumerate(self.structure.families):  # owners before members
            if self._open & set(family.over):
                self._open.add(number)
        return self._moves

    def solve_plain(self) -> dict[int, Ints]:
        """The slots of all groups without a group inside or around them, by family.

        Large ones are solved at once, as SciPy's solver lets other threads run.
        """
        plain = {
            number: self.scores[number]
            for number, group in self.numbered
            if number in self.scores and group.cells == 1 and not self.inner[number]
        }
        large = sum(len(score) >= _LARGE for score in plain.values()) > 1
        with ThreadPoolExecutor() if large else nullcontext() as pool:
            solved = list((pool.map if pool else map)(self.best, plain.values()))
        return {number: own[None, :] for number, own in zip(plain, solved, strict=True)}

    def _inner_cells(self, outer: int) -> dict[int, list[list[int]]]:
        """For each group directly inside the family ``outer`` its cells under each outer unit."""
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
        """Owners of a unit in the family ``outer``, found through families that only follow."""
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
                    score[a, b] += self._inside(inner, mine[a], other[b])
        return score

    def _inside(self, inner: int, ours: list[int], theirs: list[int]) -> float:
        """The best total score of the cells of two units, over the pairs of cells that may match.

        Two cells may match if all their owners that are settled already match.
        """
        if len(ours) == 1:
            return self._value(inner, ours[0], theirs[0])
        family = self.structure.families[inner]
        known = [k for k, over in enumerate(family.over) if over not in self._open]
        wanted = self._moves[family.owners[np.ix_(ours, known)]]
        may = (wanted[:, None] == family.owners[np.ix_(theirs, known)][None]).all(2)
        value = np.full(may.shape, NEVER)
        for i, j in np.argwhere(may):
            value[i, j] = self._value(inner, ours[i], theirs[j])
        return float(value[np.arange(len(ours)), self.best(value)].sum())

    def _value(self, number: int, cell: int, target: int) -> float:
        """The best total score of a pair of cells."""
        key = (number, cell, target)
        if key not in self._values:
            score = self.pair_scores(number, cell, target)
            chosen = self.best(score)
            self._values[key] = float(score[np.arange(len(score)), chosen].sum())
        return self._values[key]


def unit_order(symmetry: Symmetry, moves: Ints, name: str) -> Ints:
    """For each unit of a group, counted in cell order, the number of the one that takes its place.

    Args:
        symmetry: Symmetry of the model.
        moves: For every unit the unit that takes its place, as ``Symmetry.moves`` gives it.
        name: Name of the group.
    """
    number = symmetry.group_families[symmetry.names.index(name)]
    family = symmetry.structure.families[number]
    structure = symmetry.structure
    moved = moves[family.cells]
    return (structure.cell_of[moved] * family.size + structure.slot_of[moved]).ravel()


def permute_scores(
    symmetry: Symmetry, scores: Scores, ours: Permutation, theirs: Permutation
) -> dict[str, Floats]:
    """The scores of two models after the units of both are permuted.

    Args:
        symmetry: Symmetry of the model.
        scores: Scores of both as they are.
        ours: Permutation of our units.
        theirs: Permutation of their units.
    """
    rows, columns = symmetry.moves(ours), symmetry.moves(theirs)
    return {
        name: score[np.ix_(unit_order(symmetry, rows, name), unit_order(symmetry, columns, name))]
        for name, score in scores.items()
    }


def add_scores(parts: list[Scores], weights: list[float]) -> dict[str, Floats]:
    """The weighted sum of several scores of the same groups.

    Args:
        parts: Scores.
        weights: One for each of them.
    """
    return {
        name: sum((w * p[name] for w, p in zip(weights, parts, strict=True)), np.zeros(()))
        for name in parts[0]
    }
