"""Units that activations do not tell apart: their weights do.

Units that are constant or dead on the images that were looked at, and units that do the same there,
score alike wherever they are put. Elsewhere they may differ, so which of them is which matters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from dimat.matching.assignment import Floats, Scores, assign, permute_scores
from dimat.matching.coordinate_ascent import MAX_SWEEPS, AscentProblem, CoordinateAscent
from dimat.matching.parameter_slices import ParameterSlice
from dimat.symmetry import Analysis, Permutation
from dimat.symmetry.labels.units import Ints

SAME = 1e-5  # scores that are nearer differ by rounding: those of twins by up to 2e-6, in float32
WORTH = 1e-6  # what alike weights are worth: less than any score that says something
STAY = 1e-13  # what staying in place is worth then
_PROBES = 4


def leveled(score: Floats) -> Floats:
    """The scores with rows that are alike up to rounding made equal, and columns too."""
    rows = score[twins(score)]
    return np.ascontiguousarray(rows[:, twins(rows.T)])


def twins(score: Floats) -> Ints:
    """For each row the first one that is like it, up to rounding; itself if none is."""
    first = _equal(score)
    own = np.unique(first)
    probes = np.random.default_rng(0).standard_normal((score.shape[1], _PROBES))
    # No two rows that are alike are further apart in these few numbers than in their own.
    keys = score[own] @ (probes / np.abs(probes).sum(0))
    found = np.arange(len(score))
    for i, j in sorted(KDTree(keys).query_pairs(2 * SAME, p=np.inf)):
        a, b = own[i], own[j]
        if found[a] == a and found[b] == b and np.abs(score[a] - score[b]).max() <= SAME:
            found[b] = a
    return found[first]


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
    r"""The assignment by scores; among assignments of one score the one that weights fit best.

    A group with units of equal scores is assigned anew, with

    .. math:: C_{uv} - \varepsilon \lVert \theta_u - \theta'_v \rVert^2 / D

    for units that others equal, where θ_u are the weights of unit u that stand between it and
    groups that are in order already, and D the largest such distance; then again with all its
    weights, while that gains. The second term is 0 for equal weights, and only there: so a permuted
    copy is undone, whatever units it has.

    Args:
        analysis: Of the model.
        scores: For each group (our units, their units), :func:`leveled`.
        ours: The state in whose order theirs comes.
        theirs: The other, in the order that the scores were measured in.
    """
    start = assign(analysis.symmetry, scores)
    tied = {name for name, score in scores.items() if _tied(score).any()}
    if not tied:
        return start
    untying = _Untying(CoordinateAscent(AscentProblem(analysis), ours, theirs), scores, start)
    untying.run([block for block in untying.field.blocks if block & tied])
    return untying.descent.permutation


def _tied(score: Floats) -> NDArray[np.bool_]:
    """Where a row or a column equals another one."""
    rows, columns = _repeated(_equal(score)), _repeated(_equal(score.T))
    found: NDArray[np.bool_] = rows[:, None] | columns[None, :]
    return found


def _repeated(first: Ints) -> NDArray[np.bool_]:
    return np.bincount(first, minlength=len(first))[first] > 1


class _Untying:
    def __init__(self, descent: CoordinateAscent, scores: Scores, start: Permutation) -> None:
        self.descent, self.field, self.scores = descent, descent.field, scores
        descent.move(start, self.field.symmetry.names)

    def run(self, blocks: Sequence[frozenset[str]]) -> None:
        """Settle these blocks one by one, by what is in order already; then sweep over them."""
        waiting = list(blocks)
        settled = set(self.field.symmetry.names).difference(*blocks)
        while waiting:
            usable = {b: [t for t in self.field.of(b) if t.others <= settled] for b in waiting}
            block = max(waiting, key=lambda b: sum(t.entries for t in usable[b]))
            self.descent.move(self._step(usable[block], block), block)
            waiting.remove(block)
            settled |= block
        for _ in range(MAX_SWEEPS):
            gained = [self._improve(block) for block in blocks]
            if not any(gained):
                return

    def _improve(self, block: frozenset[str]) -> bool:
        own = [t for t in self.field.of(block) if not t.others & block]
        return self.descent.gain(self._step(own, block), block)

    def _step(self, terms: Sequence[ParameterSlice], block: Collection[str]) -> Permutation:
        symmetry = self.field.symmetry
        now = permute_scores(
            symmetry,
            {name: self.scores[name] for name in self.scores if name in block},
            symmetry.identity(),
            self.descent.permutation,
        )
        found = dict(now)
        for name, apart in self.descent.distances(terms).items():
            score = now.get(name, np.zeros_like(apart))
            tied = _tied(score)
            largest = max(float(apart[tied].max(initial=0.0)), 1e-300)
            found[name] = score - WORTH * np.where(tied, apart / largest, 0.0)
        return assign(symmetry, found, block, STAY)
