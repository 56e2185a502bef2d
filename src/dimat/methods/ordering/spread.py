"""One unit order that spreads from neighbor to neighbor; no step needs anybody in particular."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dimat.errors import StructureError
from dimat.exchange import Message, Step, Talk
from dimat.matching.assignment import add_scores
from dimat.matching.ties import match_units
from dimat.merging import mix
from dimat.methods.admit import Admit, validate_state
from dimat.methods.gauge import GaugeId
from dimat.methods.ordering.common import Reordering, beats_null, with_quality
from dimat.methods.ordering.pooled import local_scores, measure_edges
from dimat.methods.protocol import RoundContext
from dimat.methods.timer import Timer
from dimat.state import State

_GAUGE = "/gauge"  # no state has an entry of this name: modules are not named with a slash
_SCATTER = 0x9E3779B1  # 2^32 by the golden ratio, and odd: its multiples lie apart (Knuth)
Heard = dict[int, tuple[GaugeId, State]]


def swap_states_with_gauge(me: RoundContext, max_norm_ratio: float | None) -> Talk[Heard]:
    """Our neighbors' states with the ids of their orders, in return for ours; some may be lost."""
    own = current_gauge(me)
    gauge = torch.tensor(own.parts, dtype=torch.int64)
    message = {**me.state, _GAUGE: gauge}
    told = dict.fromkeys(me.topology.listeners(me.agent), message)
    inbox = yield Step(told, me.neighbors, _admit(validate_state(me, max_norm_ratio)))
    return {j: _parts(j, inbox[j]) for j in me.neighbors if j in inbox}


def current_gauge(me: RoundContext) -> GaugeId:
    """Id of the order that our state is in; one of our own, of this round, if we joined none."""
    if me.gauge is None or me.gauge.generation == 0:
        return GaugeId(me.agent, me.round, me.life)
    return me.gauge


def seniority(own: GaugeId) -> tuple[int, int, int, int]:
    """The key by which one of two orders that meet stays, the lower: the older one, else scattered.

    So whoever comes late, or comes back without its past, does not overrule the others. By the
    lower root each agent of a ring of n in the order of its numbers would hear of another order in
    every round, n / 2 times; by scattered ones it changes its order O(log n) times.
    """
    return own.generation, own.root * _SCATTER % 2**32, own.root, own.life


def spread(
    me: RoundContext, heard: Heard, timer: Timer, null_margin: float | None
) -> tuple[Mapping[int, State], Reordering]:
    r"""The neighbors in the oldest order that we hear of, and our permutation into it.

    With :math:`B` the neighbors in that order, and :math:`C_j` the correlations of their units with
    ours on our images, our units move by

    .. math:: P_i = \arg\max_P \sum_{j \in B} \pi_{ij} \langle C_j, P \rangle

    Neighbors of other orders are left out of this merge, as if they had not been heard: they follow
    when the order has come to them. (Aligning them to us for the time being was measured and is
    worse, docs/gauge.md.) Where the permutation does not beat the null by the margin, our units
    stay as they are, and so come into that order. Where all whom we hear are in our order, which is
    so everywhere once the oldest has come around, no model runs.

    Returns:
        The states that we mix with, by agent, and the permutation of our own, if it is one.
    """
    own = current_gauge(me)
    best = min([own, *(gauge for gauge, _ in heard.values())], key=seniority)
    theirs = {j: state for j, (gauge, state) in heard.items() if gauge == best}
    # Nothing older was heard, or all who are in it have weight 0 with us: an agent that is new puts
    # all its weight on one neighbor (agent/membership.py).
    if best == own or not any(me.topology.pi[me.agent, j] for j in theirs):
        return theirs, Reordering(gauge=own)
    with timer:
        pi = me.topology.pi
        moments = measure_edges(me.analysis(), me.state, theirs, me.batches())
        scores = {j: local_scores(seen) for j, seen in moments.items()}
        weights = [float(pi[me.agent, j]) for j in scores]
        shares = [weight / sum(weights) for weight in weights]
        mean = mix(list(theirs.values()), shares)  # tells apart units that score alike
        total = add_scores(list(scores.values()), weights)
        ours = match_units(me.analysis(), total, mean, me.state)
        if not beats_null(me, theirs, {me.agent: ours}, null_margin):
            ours = me.analysis().symmetry.identity()
        return theirs, with_quality(me, scores, {me.agent: ours}, best)


def _admit(usable: Admit) -> Admit:
    """Refuses a message without an order, or with a state that we cannot use."""
    return lambda j, message: usable(j, _parts(j, message)[1])


def _parts(j: int, message: Message) -> tuple[GaugeId, State]:
    """The order that a message says its state is in, and the state."""
    state = dict(message)
    value = state.pop(_GAUGE, None)
    if value is None or value.shape != (3,) or value.dtype != torch.int64:
        raise StructureError(
            f"state from agent {j} does not fit: '{_GAUGE}' must be three whole numbers"
        )
    own = GaugeId(*value.tolist())
    if own.root < 0 or own.generation < 1 or own.life < 0:
        raise StructureError(f"state from agent {j} does not fit: there is no order {own}")
    return own, state
