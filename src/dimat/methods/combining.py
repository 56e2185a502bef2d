"""The combination of the states that a round has brought, and of the statistics that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dimat.exchange import Talk
from dimat.merging import COMBINERS, StatisticsCombiner, calibrates, combiner_for, mix
from dimat.methods.messages import swap_statistics
from dimat.methods.protocol import RoundContext
from dimat.methods.robust import Robust, mix_heard
from dimat.methods.timer import Timer
from dimat.state import State
from dimat.symmetry import Permutation


def has_statistics(combine: str) -> bool:
    """Whether statistics travel for the combiner of that name."""
    return isinstance(COMBINERS[combine], StatisticsCombiner)


def swap_combiner_statistics(
    me: RoundContext,
    combine: str,
    theirs: Mapping[int, State],
    moves: Mapping[int, Permutation],
    timer: Timer,
    *,
    budget: float,
    max_norm_ratio: float | None,
) -> Talk[list[State]]:
    """The statistics of the agent and of those it mixes with, in one unit order.

    Empty if the combiner takes none, or those of some were lost or refused.

    Args:
        me: The agent's context.
        combine: Name of the combiner.
        theirs: The states of those it mixes with.
        moves: For those whose units move, the agent among them, how they do.
        timer: Counts the seconds that are spent on measuring.
        budget: Numbers of statistics for each number of the weights, at most.
        max_norm_ratio: As of :func:`dimat.methods.messages.swap_statistics`.
    """
    combiner = combiner_for(combine, me.task)
    if not isinstance(combiner, StatisticsCombiner) or not me.neighbors:
        return []
    analysis = me.analysis()
    with timer:
        own = combiner.statistics(analysis, me.state, me.batches(), budget)
    heard = yield from swap_statistics(me, combiner, own, max_norm_ratio)
    if not theirs.keys() <= heard.keys():
        return []
    with timer:
        told = {me.agent: own, **{j: heard[j] for j in theirs}}
        return [
            combiner.moved(analysis, me.state, x, moves[j]) if j in moves else x
            for j, x in told.items()
        ]


def combine_heard(
    me: RoundContext,
    combine: str,
    own: State,
    aligned: Mapping[int, State],
    statistics: Sequence[State],
    robust: Robust,
) -> tuple[State, bool]:
    """The merged state, and whether its running statistics need no recalibration.

    States are averaged where there is nobody to combine with, or statistics are missing. The plain
    average asks for no graph of the model.
    """
    if combine == "average" or robust != "none" or not aligned:
        return mix_heard(me, own, aligned, robust), False
    states, weights = [own, *aligned.values()], me.weights_of(aligned)
    combiner = combiner_for(combine, me.task)
    if isinstance(combiner, StatisticsCombiner):
        if not statistics:
            return mix(states, weights), False
        fitted = combiner.fit(me.analysis(), states, weights, statistics)
        return fitted, calibrates(combiner)
    batches = me.batches() if combiner.needs_batches else []
    return combiner.combine(me.analysis(), states, weights, batches), calibrates(combiner)
