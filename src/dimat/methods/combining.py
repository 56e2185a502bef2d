"""The combination of the states that a round has brought, and of the statistics that it needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dimat.errors import ConfigError
from dimat.exchange import Talk
from dimat.merging import (
    COMBINERS,
    AdapterCombiner,
    StateCombiner,
    StatisticsCombiner,
    calibrates,
    combiner_for,
    mix,
)
from dimat.methods.messages import swap_statistics
from dimat.methods.protocol import Method, RoundContext
from dimat.methods.robust import Robust, mix_heard
from dimat.methods.timer import Timer
from dimat.state import State
from dimat.symmetry import Permutation


def has_statistics(combine: str) -> bool:
    """Whether statistics travel for the combiner of that name."""
    return isinstance(COMBINERS[combine], StatisticsCombiner)


def needs_layers(combine: str) -> bool:
    """Whether the combiner of that name looks at the layers of the model, so needs its graph."""
    return not isinstance(COMBINERS[combine], StateCombiner)


def check_combiner(name: str, method: Method, keys: Collection[str], *, part: bool) -> None:
    """Refuse a combiner that does not suit the entries that agents exchange.

    Args:
        name: Of the method, for the message.
        method: The method.
        keys: State keys of these entries.
        part: Whether they are a part of the model.

    Raises:
        ConfigError: If it fits layers, of which some may be frozen, or is for adapters only.
    """
    combine = method.combiner
    if part and combine in COMBINERS and needs_layers(combine):
        can = [own for own in COMBINERS if not needs_layers(own)]
        raise ConfigError(
            f"method '{name}' combines by '{combine}', which fits whole layers, and only trained "
            f"entries are exchanged, the rest being frozen: use {', '.join(can)}, or exchange all"
        )
    combiner = COMBINERS.get(combine)
    if isinstance(combiner, AdapterCombiner):
        combiner.check_keys(keys, combine)


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

    States are averaged where there is nobody to combine with, or statistics are missing. Combiners
    of states alone ask for no graph of the model.
    """
    if combine == "average" or robust != "none" or not aligned:
        return mix_heard(me, own, aligned, robust), False
    states, weights = [own, *aligned.values()], me.weights_of(aligned)
    combiner = combiner_for(combine, me.task)
    if isinstance(combiner, StateCombiner):
        return combiner.combine_states(states, weights), False
    if isinstance(combiner, StatisticsCombiner):
        if not statistics:
            return mix(states, weights), False
        fitted = combiner.fit(me.analysis(), states, weights, statistics)
        return fitted, calibrates(combiner)
    batches = me.batches() if combiner.needs_batches else []
    return combiner.combine(me.analysis(), states, weights, batches), calibrates(combiner)
