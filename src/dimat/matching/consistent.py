"""Matching of all states at once, ``consistent``: one unit order in which all pairs agree best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from dimat.matching.activations import Activations
from dimat.matching.assignment import Scores, add_scores, assign, permute_scores
from dimat.matching.fit import Matching, fit, matching_of
from dimat.matching.protocol import Problem
from dimat.matching.ties import match_units
from dimat.symmetry import Permutation, Symmetry

MAX_SWEEPS = 100  # a bound, not a budget: every step gains, so the sweeps end by themselves
GAIN = 1e-9  # of the total: less is rounding

# The scores of every two states (ours, theirs), ours the earlier one.
Pairs = Mapping[tuple[int, int], Scores]


@dataclass(frozen=True)
class Consistent:
    r"""One order for all states, in which every two of them agree best.

    .. math:: \max_{P_1 \dots P_n} \sum_{i<j} w_i w_j
        \sum_u C^{ij}_{P_i(u), P_j(u)}

    Matching every state to the first one makes the others agree with that one alone. Here every
    state is matched in turn to the weighted sum of all others in their current order, from the
    pairwise solution on, until nothing is gained; so matchings are consistent around every cycle by
    construction. All scores come from one pass over the batches.

    *Assumes* what ``activations`` does. *Breaks when* there are very many states: memory and time
    grow with their number squared.

    References:
        Crisostomi et al., "C2M3: Cycle-Consistent Multi-Model Merging", NeurIPS 2024.
    """

    activations: Activations = field(default_factory=Activations)
    needs_batches: bool = True

    def match(self, problem: Problem) -> list[Matching]:
        """Every state in the order of the first; similarities are those with the first."""
        symmetry = problem.analysis.symmetry
        states = problem.states
        both = combinations(range(len(states)), 2)
        moments = self.activations.measure(problem.analysis, states, both, problem.batches)
        pairs = {pair: self.activations.scores(own) for pair, own in moments.items()}
        start = [
            match_units(problem.analysis, pairs[0, j], states[0], states[j])
            for j in range(1, len(states))
        ]
        gauge = Gauge(symmetry, pairs, problem.weights, start)
        for _ in gauge.sweeps():
            pass
        back = symmetry.inverse(gauge.orders[0])
        orders = [symmetry.compose(back, own) for own in gauge.orders]
        found = [matching_of(symmetry.identity())]
        return found + [fit(symmetry, pairs[0, j], orders[j]) for j in range(1, len(states))]


class Gauge:
    """The unit order of every state, improved by sweeps over the states.

    Args:
        symmetry: Symmetry of their model.
        pairs: Scores of every two of the states as they are.
        weights: Weight of each state.
        start: Orders of all states but the first to set out from.

    Attributes:
        orders: For every state the permutation into the common order.
    """

    def __init__(
        self,
        symmetry: Symmetry,
        pairs: Pairs,
        weights: Sequence[float],
        start: Sequence[Permutation],
    ) -> None:
        self.symmetry, self.pairs, self.weights = symmetry, pairs, weights
        self.orders: list[Permutation] = [symmetry.identity(), *start]

    @property
    def total(self) -> float:
        """The weighted agreement of all pairs, which the sweeps raise."""
        return sum(
            self.weights[i] * self.weights[j] * _agreement(self._between(i, j))
            for i, j in self.pairs
        )

    def sweeps(self) -> Iterator[float]:
        """The total after each sweep over all states; sweeps go on until nothing is gained."""
        for _ in range(MAX_SWEEPS):
            gained = [self._rematch(i) for i in range(len(self.orders))]
            yield self.total
            if not any(gained):
                return

    def _rematch(self, i: int) -> bool:
        """Match one state to all others in their order; return whether that gained."""
        others = [j for j in range(len(self.orders)) if j != i]
        if not others:
            return False
        weights = [self.weights[i] * self.weights[j] for j in others]
        score = add_scores([self._between(j, i) for j in others], weights)
        step = assign(self.symmetry, score)
        still = self.symmetry.identity()
        gain = _agreement(permute_scores(self.symmetry, score, still, step)) - _agreement(score)
        if gain <= GAIN * sum(weights) * sum(len(own) for own in score.values()):
            return False
        self.orders[i] = self.symmetry.compose(step, self.orders[i])
        return True

    def _between(self, i: int, j: int) -> Scores:
        """The scores of two states in their current order."""
        if i > j:
            return {name: own.T for name, own in self._between(j, i).items()}
        return permute_scores(self.symmetry, self.pairs[i, j], self.orders[i], self.orders[j])


def _agreement(scores: Scores) -> float:
    """The total score of all pairs of units that are in one place."""
    return sum(float(np.trace(own)) for own in scores.values())
