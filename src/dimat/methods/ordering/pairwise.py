"""``pairwise``, the paper's rule: each agent matches each neighbor's units to its own."""

from __future__ import annotations

from collections.abc import Mapping

from dimat.exchange import Talk
from dimat.methods.gauge import match_to, transposed
from dimat.methods.ordering.common import Reordering, compare, with_quality
from dimat.methods.protocol import RoundContext
from dimat.methods.timer import Timer
from dimat.state import State


def pairwise(
    me: RoundContext, theirs: Mapping[int, State], timer: Timer, *, pooled: bool
) -> Talk[Reordering]:
    """The permutation of every neighbor that we heard into our order; we stay as we are.

    Args:
        me: The agent's context.
        theirs: The states of the neighbors that were heard.
        timer: Counts the seconds of matching.
        pooled: Whether both ends of an edge add up their statistics.
    """
    scores = yield from compare(me, theirs, list(theirs), timer, pooled=pooled)
    with timer:
        permutations = {
            j: match_to(
                me.analysis(),
                transposed(own),
                me.state,
                theirs[j],
                # Both ends have the same scores: each solves with the lower number's units as rows,
                # so they find permutations that are exactly inverse to each other.
                turned=pooled and j < me.agent,
            )
            for j, own in scores.items()
        }
        return with_quality(me, scores, permutations, None)
