"""``tree``: all agents come into one unit order at once, matched along a breadth-first tree."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import networkx as nx
from torch import Tensor

from dimat.exchange import Step, Talk
from dimat.matching.assignment import Scores
from dimat.methods.admit import require_inbox
from dimat.methods.gauge import (
    GaugeId,
    colors,
    decode,
    decode_ids,
    encode,
    encode_ids,
    match_to,
    refine,
)
from dimat.methods.ordering.common import Reordering, beats_null, compare, with_quality
from dimat.methods.ordering.plan import Plan, make_plan
from dimat.methods.protocol import RoundContext
from dimat.methods.timer import Timer
from dimat.state import State
from dimat.symmetry import Permutation


def tree(
    me: RoundContext,
    theirs: Mapping[int, State],
    timer: Timer,
    *,
    pooled: bool,
    sweeps: int,
    every: int,
    null_margin: float | None,
) -> Talk[Reordering]:
    """The permutations of all agents that can reach each other in this round into one order.

    Where all are in one order already, no activations are compared, and nothing travels but the
    ids of the orders.

    Args:
        me: The agent's context.
        theirs: The states of its neighbors.
        timer: Counts the seconds of matching.
        pooled: Whether both ends of an edge add up their statistics.
        sweeps: Refinement sweeps over all agents.
        every: Rounds between matchings of all agents; 0: only those of different orders match.
        null_margin: What a match to our parent must be better by than none, as of
            :func:`~dimat.methods.ordering.common.beats_null`.
    """
    forgets = every > 0 and (me.round - 1) % every == 0
    own = GaugeId(me.agent) if forgets or me.gauge is None else me.gauge
    ids = yield from gossip(me, own)
    plan = make_plan(me.topology.graph, ids, me.round)
    if plan is None:
        return Reordering({}, own)
    compared: Collection[int] = (
        plan.compares(me.agent, me.neighbors, me.topology.graph)  # they compare with us, so we do
        if pooled
        else plan.needs(me.agent, me.neighbors)
    )
    scores = yield from compare(me, theirs, compared, timer, pooled=pooled)
    with timer:
        step = match_to_parent(me, theirs, plan, scores, null_margin, pooled=pooled)
    permutations = yield from compose(me, plan, step)
    # One color at a time: agents of a color are no neighbors, so their moves do not interfere.
    for color in colors(me.topology.graph) * sweeps:
        with timer:
            if me.agent in color & plan.alone:
                ours = refine(me.analysis().symmetry, scores, permutations, me)
                if beats_null(me, theirs, {**permutations, me.agent: ours}, null_margin):
                    permutations[me.agent] = ours
        yield from announce(me, permutations, color & plan.alone)
    with timer:
        return with_quality(me, scores, permutations, plan.gauge)


def gossip(me: RoundContext, own: GaugeId) -> Talk[dict[int, GaugeId]]:
    """The gauge ids of all agents that we can reach, told on from neighbor to neighbor.

    Raises:
        TrainingError: If a message that is needed is lost.
    """
    graph = me.topology.graph
    part = nx.node_connected_component(graph, me.agent)
    # News has crossed the graph after as many steps as it is wide; this is an upper bound of it,
    # and the same for all.
    steps = 2 * max(nx.single_source_shortest_path_length(graph, min(part)).values())
    known = news = {me.agent: own}
    for _ in range(steps):
        told = dict.fromkeys(me.neighbors, encode_ids(news))
        inbox = yield from require_inbox(Step(told, me.neighbors))
        news = {}
        for j, message in inbox.items():
            heard = decode_ids(message, part, f"gauge ids from agent {j}")
            news.update({i: heard[i] for i in heard.keys() - known.keys()})
        known = {**known, **news}
    return known


def match_to_parent(
    me: RoundContext,
    theirs: Mapping[int, State],
    plan: Plan,
    scores: Mapping[int, Scores],
    null_margin: float | None,
    *,
    pooled: bool,
) -> Permutation | None:
    """The permutation of our units into our parent's order; None if we move as it does."""
    if me.agent not in plan.crossings:
        return None
    parent = plan.parents[me.agent]
    turned = pooled and me.agent < parent  # as in pairwise.py
    step = match_to(me.analysis(), scores[parent], theirs[parent], me.state, turned=turned)
    alike = beats_null(me, {parent: theirs[parent]}, {me.agent: step}, null_margin)
    return step if alike else None


def compose(me: RoundContext, plan: Plan, step: Permutation | None) -> Talk[dict[int, Permutation]]:
    """The permutations into the new order, ours and our neighbors', told down the tree.

    Args:
        me: The agent's context.
        plan: Of the tree.
        step: Our permutation into our parent's order; None if we move as it does.

    Raises:
        TrainingError: If a message that is needed is lost.
    """
    symmetry = me.analysis().symmetry
    permutations = {me.agent: symmetry.identity()}
    parent = plan.parents.get(me.agent)
    if parent is not None:
        inbox = yield from require_inbox(Step(hear=[parent]))
        permutations[me.agent] = permutations[parent] = decode(symmetry, inbox[parent])
        if step is not None:
            permutations[me.agent] = symmetry.compose(permutations[parent], step)
    others = [j for j in me.neighbors if j != parent]
    told = dict.fromkeys(me.neighbors, encode(permutations[me.agent]))
    inbox = yield from require_inbox(Step(told, others))
    permutations.update({j: decode(symmetry, inbox[j]) for j in others})
    return permutations


def announce(
    me: RoundContext, permutations: dict[int, Permutation], turn: Collection[int]
) -> Talk[None]:
    """Tell our permutation to our neighbors if it is our turn; else hear those whose turn it is.

    Raises:
        TrainingError: If a message that is needed is lost.
    """
    mine = me.agent in turn
    send: dict[int, Mapping[str, Tensor]] = {}
    if mine:
        send = dict.fromkeys(me.neighbors, encode(permutations[me.agent]))
    hear = [] if mine else [j for j in me.neighbors if j in turn]
    inbox = yield from require_inbox(Step(send, hear))
    symmetry = me.analysis().symmetry
    permutations.update({j: decode(symmetry, message) for j, message in inbox.items()})
