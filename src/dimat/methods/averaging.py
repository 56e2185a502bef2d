"""``wa``: plain weighted averaging, as in decentralized SGD with local steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from dimat.exchange import Step, Talk
from dimat.merging import mix
from dimat.methods.protocol import Member, Merged
from dimat.state import State, check_same_structure, squared_distance


class Averaging:
    r"""Average with the neighbors, units as they stand.

    .. math:: \theta_i \leftarrow \pi_{ii}\theta_i + \sum_j \pi_{ij}\theta_j

    *Assumes* that all agents keep their units in the same order: one shared init, or frequent
    exchange. *Breaks when* agents start from different inits: the average of two networks that
    compute the same thing with different units computes nothing.
    """

    def merge(self, me: Member) -> Talk[Merged]:
        """Swap states, mix."""
        theirs = yield from swap_states(me)
        disagreement = distance_from(me, me.state, theirs)
        return Merged(mix([me.state, *theirs], me.weights), disagreement=disagreement)


def swap_states(me: Member) -> Talk[list[State]]:
    """Tell every neighbor our state, hear theirs, in the order of ``me.neighbors``."""
    inbox = yield Step(dict.fromkeys(me.neighbors, me.state), me.neighbors)
    for j, message in inbox.items():
        check_same_structure(me.state, message, f"state from agent {j}")
    return [dict(inbox[j]) for j in me.neighbors]


def distance_from(
    me: Member, ours: Mapping[str, Tensor], aligned: Sequence[Mapping[str, Tensor]]
) -> float | None:
    r"""Root of :math:`\sum_j \pi_{ij}\lVert\theta_i - P_{ij}\theta_j\rVert^2`, or None if alone."""
    if not aligned:
        return None
    return math.sqrt(
        math.fsum(
            weight * squared_distance(ours, theirs, me.parameters)
            for weight, theirs in zip(me.weights[1:], aligned, strict=True)
        )
    )
