"""Two ends of an edge compare their units on the images of both; only moments travel.

Each end measures how the units of both states vary together on its own images and sends the
moments. Both add them up in one order and in the same precision, so both have the same scores to
the last bit (on machines that compute alike).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from dimat.matching.activations import Activations, Moments
from dimat.matching.assignment import Floats
from dimat.matching.cross_moments import CrossMoments
from dimat.state import check_finite, check_same_structure
from dimat.symmetry import Analysis


def measure_edges(
    analysis: Analysis,
    own: Mapping[str, Tensor],
    others: Mapping[int, Mapping[str, Tensor]],
    batches: Iterable[Any],
) -> dict[int, Moments]:
    """For each neighbor the moments (their units, our units) on our images."""
    pairs = [(j, 0) for j in range(1, len(others) + 1)]
    found = Activations().measure(analysis, [own, *others.values()], pairs, batches)
    return dict(zip(others, found.values(), strict=True))


def local_scores(moments: Moments) -> dict[str, Floats]:
    """For each group the scores (their units, our units) on our images alone."""
    return Activations().scores(moments)


def encode_moments(moments: Moments) -> dict[str, Tensor]:
    """Moments as a message: a C x C matrix and some vectors for every place."""
    return {
        f"{place}/{part}": value
        for place, own in enumerate(moments.values())
        for part, value in own.tensors().items()
    }


def pooled_moments(
    moments: Moments, received: Mapping[str, Tensor], other: int, own: int
) -> Moments:
    """The moments (lower agent's units, higher agent's units) on the images of both.

    Args:
        moments: Ours, of (their units, our units).
        received: What the other end sent: its moments of (our units, its units).
        other: Its number.
        own: Our number.

    Raises:
        StructureError: If what was received does not fit, or is not finite.
    """
    sent, who = encode_moments(moments), f"moments from agent {other}"
    check_same_structure(sent, received, who)
    check_finite(received, who)
    total: Moments = {}
    for place, key in enumerate(moments):
        # Ours as they were sent, rounded: both ends add up the same numbers.
        ours = CrossMoments.from_tensors(_part(sent, place), swapped=own < other)
        theirs = CrossMoments.from_tensors(_part(received, place), swapped=other < own)
        first, second = (ours, theirs) if own < other else (theirs, ours)
        first.add(second)
        total[key] = first
    return total


def pooled_scores(
    moments: Moments, received: Mapping[str, Tensor], other: int, own: int
) -> dict[str, Floats]:
    """For each group the scores (their units, our units) on the images of both; as above."""
    scores = Activations().scores(pooled_moments(moments, received, other, own))
    return scores if other < own else {name: score.T for name, score in scores.items()}


def _part(message: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    start = f"{place}/"
    return {k.removeprefix(start): v for k, v in message.items() if k.startswith(start)}
