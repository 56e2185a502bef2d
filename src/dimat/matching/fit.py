"""The result of matching: a permutation, with the similarity of the units that it matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dimat.matching.assignment import Floats, Scores, unit_order
from dimat.symmetry import Permutation, Symmetry


@dataclass(frozen=True)
class Matching:
    """A permutation of their units, with the similarity of every matched pair.

    Args:
        permutation: Applied to their state, it puts their units in our order.
        similarities: For each group with scores the (units,) scores of matched units, in our cell
            order: correlations, if activations were matched.
        margins: How much better each unit's match is than the best other one of either side; below
            0 where another would have been better for this unit alone.
    """

    permutation: Permutation
    similarities: Mapping[str, Floats] = field(default_factory=dict)
    margins: Mapping[str, Floats] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The permutation, and mean similarity and margin over all units."""
        fits = "".join(
            f", {name} {np.concatenate(list(own.values())).mean():.3g}"
            for name, own in (("similarity", self.similarities), ("margin", self.margins))
            if own
        )
        return f"Matching({self.permutation!r}{fits})"

    @property
    def similarity(self) -> dict[str, float]:
        """For each group with scores the mean score of matched units."""
        return {name: float(own.mean()) for name, own in self.similarities.items()}

    @property
    def margin(self) -> dict[str, float]:
        """For each group with scores the median margin."""
        return {name: float(np.median(own)) for name, own in self.margins.items()}


def matching_of(permutation: Permutation) -> Matching:
    """A matching by a permutation of which no similarity was measured.

    Args:
        permutation: The permutation.
    """
    return Matching(permutation)


def fit(symmetry: Symmetry, scores: Scores, permutation: Permutation) -> Matching:
    """A matching by a permutation, with the scores of the units that it matches.

    Args:
        symmetry: Symmetry of the model.
        scores: For each group (our units, their units), of both states as they were given.
        permutation: The permutation of their units.
    """
    moves = symmetry.moves(permutation)
    similarities, margins = {}, {}
    for name, score in scores.items():
        order = unit_order(symmetry, moves, name)
        own = np.arange(len(score))
        matched = score[own, order]
        others = score.copy()
        others[own, order] = -np.inf
        rival = np.maximum(others.max(1), others.max(0)[order])
        similarities[name] = matched
        margins[name] = np.where(np.isfinite(rival), matched - rival, matched)
    return Matching(permutation, similarities, margins)
