"""Ties of activation scores, broken by weights.

Units that are constant or dead on the images that were looked at, and units that do the same there,
score alike wherever they are put. Elsewhere they may differ, so which of them is which matters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from dimat.matching.assignment import Floats, Scores, assign, less_prices, unit_order
from dimat.matching.coordinate_ascent import MAX_SWEEPS, CoordinateAscent
from dimat.matching.parameter_slices import ParameterSlice, parameter_slices
from dimat.symmetry import Analysis, Permutation
from dimat.symmetry.labels.units import Ints

SAME = 1e-5  # scores that are nearer differ by rounding: those of twins by up to 2e-6, in float32
WORTH = 1e-6  # most that weights add to a score: less than differences that say something
STAY = 1e-13  # bonus for staying in place beside them, so that units whose weights tie do not move
_PROBES = 4
Bools = NDArray[np.bool_]


def leveled(score: Floats) -> Floats:
    """Scores in which rows that are alike up to rounding are equal, and columns too.

    Args:
        score: (our units, their units).
    """
    rows = score[twins(score)]
    return np.ascontiguousarray(rows[:, twins(rows.T)])


def twins(score: Floats) -> Ints:
    """For each row the first one that equals it up to rounding, which may be the row itself.

    Args:
        score: (rows, columns).
    """
    first = _equal(score)
    own = np.flatnonzero(first == np.arange(len(first)))
    # Rows are compared by a few projections first. The weights of a projection sum to 1 in
    # absolute value, so alike rows are no further apart there than in their entries.
    keys = score[own] @ _probes(score.shape[1])
    if np.diff(np.sort(keys[:, 0])).min(initial=np.inf) > 2 * SAME:
        return first
    found = np.arange(len(score))
    for i, j in sorted(KDTree(keys).query_pairs(2 * SAME, p=np.inf)):
        a, b = own[i], own[j]
        if found[a] == a and found[b] == b and np.abs(score[a] - score[b]).max() <= SAME:
            found[b] = a
    return found[first]


@lru_cache(maxsize=16)
def _probes(columns: int) -> Floats:
    """(columns, probes) weights of random projections."""
    probes = np.random.default_rng(0).standard_normal((columns, _PROBES))
    found: Floats = probes / np.abs(probes).sum(0)
    return found


def _equal(score: Floats) -> Ints:
    """For each row the first one of the same bits."""
    first: dict[bytes, int] = {}
    rows = np.ascontiguousarray(score + 0.0)  # -0.0 is 0.0
    return np.asarray([first.setdefault(row.tobytes(), i) for i, row in enumerate(rows)], np.int64)


def match_units(
    analysis: Analysis,
    scores: Scores,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
) -> Permutation:
    r"""The permutation by scores; among those of equal score the one with the closest weights.

    A group with units of equal scores is assigned anew, with

    .. math:: C_{uv} - \varepsilon \lVert \theta_u - \theta'_v \rVert^2 / D

    for units whose scores equal those of others, where θ_u are the weights of unit u towards groups
    that are in order already, and D is the largest such distance; then again with all its weights,
    while that gains. The second term is 0 for equal weights, and only there: so a permuted
    copy is undone, whatever units it has.

    Args:
        analysis: Analysis of the model.
        scores: For each group (our units, their units), :func:`leveled`.
        ours: The state whose unit order is kept.
        theirs: The other state, in the order that the scores were measured in.
    """
    symmetry = analysis.symmetry
    start = assign(symmetry, scores)
    tied = {name: (_repeated(score), _repeated(score.T)) for name, score in scores.items()}
    names = {name for name, (rows, columns) in tied.items() if rows.any() or columns.any()}
    if not names:
        return start
    moves = symmetry.moves(start)
    easier = {n: less_prices(own, unit_order(symmetry, moves, n)) for n, own in scores.items()}
    ascent = CoordinateAscent(parameter_slices(analysis), ours, theirs)
    ascent.move(start, symmetry.names)
    untying = _Untying(ascent, easier, tied)
    untying.run([block for block in ascent.slices.blocks if block & names])
    return ascent.permutation


def _repeated(score: Floats) -> Bools:
    """For each row whether it equals another one."""
    first = _equal(score)
    return np.bincount(first, minlength=len(first))[first] > 1


class _Untying:
    """The breaking of ties for one pair of states, from an assignment by scores on.

    Args:
        ascent: The ascent of the weights, which has taken that assignment.
        scores: For each group (our units, their units as they were given).
        tied: For each group whether a row of its scores equals another one, and each column.
    """

    def __init__(
        self, ascent: CoordinateAscent, scores: Scores, tied: Mapping[str, tuple[Bools, Bools]]
    ) -> None:
        self.ascent, self.slices, self.scores, self.tied = ascent, ascent.slices, scores, tied

    def run(self, blocks: Sequence[frozenset[str]]) -> None:
        """Assign blocks one by one, by groups that are in order already; then sweep over them."""
        waiting = list(blocks)
        settled = set(self.slices.symmetry.names).difference(*blocks)
        changed = dict.fromkeys(blocks, False)
        while waiting:
            usable = {b: [t for t in self.slices.of(b) if t.others <= settled] for b in waiting}
            block = max(waiting, key=lambda b: sum(t.entries for t in usable[b]))
            changed[block] = len(block) > 1 or len(usable[block]) < len(self._own(block))
            self.ascent.move(self._step(usable[block], block), block)
            waiting.remove(block)
            settled |= block
        for _ in range(MAX_SWEEPS):
            if not any(changed.values()):
                return
            for block in [b for b in blocks if changed[b]]:
                changed[block] = False
                if self.ascent.gain(self._step(self._own(block), block), block):
                    near = set(self.slices.near(block)) & set(blocks)
                    if len(block) == 1:  # is solved exactly; nested groups may gain more
                        near.remove(block)
                    changed |= dict.fromkeys(near, True)

    def _own(self, block: frozenset[str]) -> list[ParameterSlice]:
        """The slices that compare a block as a whole."""
        return [t for t in self.slices.of(block) if not t.others & block]

    def _step(self, slices: Sequence[ParameterSlice], block: Collection[str]) -> Permutation:
        symmetry = self.slices.symmetry
        moves = symmetry.moves(self.ascent.permutation)
        orders = {name: unit_order(symmetry, moves, name) for name in block}
        found = {name: self.scores[name][:, orders[name]] for name in block & self.scores.keys()}
        for name, apart in self.ascent.distances(slices).items():
            score = found.get(name, np.zeros_like(apart))
            if name in self.tied:
                rows, columns = self.tied[name]
                tied = rows[:, None] | columns[orders[name]]
            else:
                tied = np.ones_like(apart, bool)
            largest = max(float(apart[tied].max(initial=0.0)), 1e-300)
            found[name] = score - WORTH * np.where(tied, apart / largest, 0.0)
        return assign(symmetry, found, block, STAY)
