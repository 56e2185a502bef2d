"""Matching by ``activations`` of both models' units on the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dimat.matching.assignment import Floats
from dimat.matching.cross_moments import CrossMoments, Statistic
from dimat.matching.fit import Matching, fit, matching_of
from dimat.matching.protocol import Problem
from dimat.matching.ties import leveled, match_units
from dimat.matching.unit_activations import ActivationRecorder, Layers, Seen, observations
from dimat.symmetry import Analysis

# Places (pixels, tokens) of every sample that are compared; measured in docs/matching.md.
PER_SAMPLE = 16
# Score of two constant units of one value: enough for them to find each other, and too little to
# override units that vary.
CONSTANT = 1e-3

# Moments of two models' activations by (group, node), for every place where a group is observed.
Moments = dict[tuple[str, str], CrossMoments]


@dataclass(frozen=True)
class Activations:
    r"""Assign units so that their activations agree best.

    .. math:: P = \arg\max_P \sum_i C_{i,P(i)}, \quad
        C_{ik} = \mathrm{corr}(x_i, y_k)

    over all observations: samples of the calibration batches, and places in them. A group is
    observed wherever it enters a contracting operator; its correlations are averaged over those.
    Units that do not vary there score up to 0.001 with each other, by how near their values are;
    where units score alike, weights decide (:func:`dimat.matching.ties.match_units`).

    *Assumes* that both networks compute similar features on these inputs. *Breaks when* the inputs
    are not what the networks were trained on, or too few (below some 100 images).

    Args:
        statistic: Comparison of two units: correlation (the paper's), covariance, or cosine.
        layers: Places where a group is observed: all, or only the last or first in the graph.
        per_sample: Places of every sample that are compared; None: all.

    References:
        Li et al., "Convergent Learning", ICLR 2016; Ainsworth et al., "Git Re-Basin", ICLR 2023;
        Saadati et al., "DIMAT", CVPR 2024.
    """

    statistic: Statistic = "correlation"
    layers: Layers = "all"
    per_sample: int | None = PER_SAMPLE
    needs_batches: bool = True

    def match(self, problem: Problem) -> list[Matching]:
        """Every state to the first, pair by pair, from one pass over the batches."""
        analysis, states = problem.analysis, problem.states
        pairs = [(0, j) for j in range(1, len(states))]
        found = [matching_of(analysis.symmetry.identity())]
        for (_, j), moments in self.measure(analysis, states, pairs, problem.batches).items():
            scores = self.scores(moments)
            permutation = match_units(analysis, scores, states[0], states[j])
            found.append(fit(analysis.symmetry, scores, permutation))
        return found

    def measure(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        pairs: Iterable[tuple[int, int]],
        batches: Iterable[Any],
    ) -> dict[tuple[int, int], Moments]:
        """The moments of pairs of states; every state runs once a batch, in order.

        Activations are held of states that a later one is paired with, and for one batch only;
        those of the others go into the moments as they come.

        Args:
            analysis: Analysis of the model.
            states: ``n >= 1`` states.
            pairs: Indices of the states to be compared, (ours, theirs) in either order, i ≠ j.
            batches: Inputs, the same for all models.
        """
        places = observations(analysis, self.layers)
        see = ActivationRecorder(analysis.trace, places, self.per_sample)
        found: dict[tuple[int, int], Moments] = {
            pair: {(o.group, o.node): CrossMoments() for o in places} for pair in pairs
        }
        for inputs in batches:
            _update(found, see, states, inputs)
        return found

    def scores(self, moments: Moments) -> dict[str, Floats]:
        """For each observed group the (N, N) scores, averaged over the places of observation.

        Args:
            moments: Moments of one pair of states, as :meth:`measure` gives them.
        """
        found: dict[str, list[Floats]] = {}
        for (group, _), own in moments.items():
            score: Floats = own.scores(self.statistic).cpu().numpy()
            score = score / _scale(score, self.statistic)
            still: Floats = own.closeness().cpu().numpy()
            found.setdefault(group, []).append(score + CONSTANT * still)
        return {group: leveled(np.mean(parts, axis=0)) for group, parts in found.items()}


def _update(
    found: Mapping[tuple[int, int], Moments],
    see: ActivationRecorder,
    states: Sequence[Mapping[str, Tensor]],
    inputs: Any,
) -> None:
    """Add a batch to the moments of every pair: in a function, so that nothing of it stays."""
    held: dict[int, Seen] = {}
    for k, state in enumerate(states):
        due = {pair: own for pair, own in found.items() if max(pair) == k}
        held[k], is_needed = {}, any(min(pair) == k for pair in found)
        for key, seen in see.each(state, inputs):
            held[k][key] = seen
            for (i, j), own in due.items():
                own[key].update(held[i][key], held[j][key])
            if not is_needed:
                del held[k][key]


def _scale(score: Floats, statistic: Statistic) -> float:
    """The number that scores of one place are divided by, so that all places count alike.

    Covariances have units of their own at every place: the largest becomes 1.
    """
    return max(float(np.abs(score).max(initial=0.0)), 1e-300) if statistic == "covariance" else 1.0
