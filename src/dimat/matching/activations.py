"""Matching by ``activations`` of both models' units on the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from dimat.matching.assignment import Floats
from dimat.matching.cross_moments import CrossMoments, Statistic
from dimat.matching.fit import Matching, fit, matching_of
from dimat.matching.protocol import Problem
from dimat.matching.ties import leveled, match_units
from dimat.matching.unit_activations import ActivationRecorder, Layers, observations
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
        analysis, symmetry = problem.analysis, problem.analysis.symmetry
        first, *others = problem.states
        found = [matching_of(symmetry.identity())]
        measured = self.measure(analysis, [first], others, problem.batches)
        for moments, other in zip(measured, others, strict=True):
            scores = self.scores(moments)
            found.append(fit(symmetry, scores, match_units(analysis, scores, first, other)))
        return found

    def measure(
        self,
        analysis: Analysis,
        ours: Sequence[Mapping[str, Tensor]],
        theirs: Sequence[Mapping[str, Tensor]],
        batches: Iterable[Any],
    ) -> list[Moments]:
        """The moments of every pair (ours, theirs), ours outermost; every model runs once a batch.

        Activations are held of the fewer ones of both only, those of the others go into the moments
        as they come.

        Args:
            analysis: Analysis of the model.
            ours: States whose unit order is the reference, one after another.
            theirs: States to be put into that order.
            batches: Inputs, the same for all models.
        """
        places = observations(analysis, self.layers)
        see = ActivationRecorder(analysis.trace, places, self.per_sample)
        found: list[Moments] = [
            {(o.group, o.node): CrossMoments() for o in places} for _ in ours for _ in theirs
        ]
        few, many = (ours, theirs) if len(ours) <= len(theirs) else (theirs, ours)
        for inputs in batches:
            held = [see(state, inputs) for state in few]
            for j, state in enumerate(many):
                for key, seen in see.each(state, inputs):
                    for i, own in enumerate(held):
                        if few is ours:
                            found[i * len(theirs) + j][key].update(own[key], seen)
                        else:
                            found[j * len(theirs) + i][key].update(seen, own[key])
        return found

    def measure_pairs(
        self, analysis: Analysis, states: Sequence[Mapping[str, Tensor]], batches: Iterable[Any]
    ) -> dict[tuple[int, int], Moments]:
        """The moments of every two states (i, j), i < j; every model runs once a batch.

        Args:
            analysis: Analysis of the model.
            states: ``n >= 1`` states.
            batches: Inputs, the same for all models.
        """
        places = observations(analysis, self.layers)
        see = ActivationRecorder(analysis.trace, places, self.per_sample)
        found: dict[tuple[int, int], Moments] = {
            pair: {(o.group, o.node): CrossMoments() for o in places}
            for pair in combinations(range(len(states)), 2)
        }
        for inputs in batches:
            seen = [see(state, inputs) for state in states]
            for (i, j), own in found.items():
                for key, moments in own.items():
                    moments.update(seen[i][key], seen[j][key])
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


def _scale(score: Floats, statistic: Statistic) -> float:
    """The number that scores of one place are divided by, so that all places count alike.

    Covariances have units of their own at every place: the largest becomes 1.
    """
    return max(float(np.abs(score).max(initial=0.0)), 1e-300) if statistic == "covariance" else 1.0
