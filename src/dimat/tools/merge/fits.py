"""The fit of each parent to the first, group by group: plain numbers from matchings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from dimat.matching import Matching
from dimat.matching.assignment import unit_order
from dimat.symmetry import Permutation, Symmetry
from dimat.tools.merge.result import GroupFit, ParentFit


def parent_fits(symmetry: Symmetry, matchings: Sequence[Matching]) -> tuple[ParentFit, ...]:
    """The fit of every parent but the first.

    Args:
        symmetry: The symmetry of the model.
        matchings: The matching of each parent to the first; the first one's is left out.
    """
    return tuple(
        ParentFit(number, permutation_digest(own.permutation), _groups(symmetry, own))
        for number, own in enumerate(matchings)
        if number > 0
    )


def permutation_digest(permutation: Permutation) -> str:
    """SHA-256 of a permutation: group names and places, in order of names.

    Args:
        permutation: The permutation.
    """
    text = hashlib.sha256()
    for name, slots in sorted(permutation.slots.items()):
        text.update(f"{name}{slots.shape}".encode() + slots.astype("<i8").tobytes())
    return text.hexdigest()


def _groups(symmetry: Symmetry, matching: Matching) -> tuple[GroupFit, ...]:
    moves = symmetry.moves(matching.permutation)
    return tuple(
        _group(name, matching, unit_order(symmetry, moves, name)) for name in symmetry.names
    )


def _group(
    name: str, matching: Matching, order: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> GroupFit:
    margins = matching.margins.get(name)
    return GroupFit(
        name,
        len(order),
        matching.similarity.get(name),
        matching.margin.get(name),
        None if margins is None else float((margins < 0).mean()),
        float((order != np.arange(len(order))).mean()),
    )
