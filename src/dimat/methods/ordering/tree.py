"""How an agent and its neighbors come into one unit order before they are mixed."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import networkx as nx
from torch import Tensor

from dimat.exchange import Step, Talk
from dimat.exchange.precision import exact, from_exact
from dimat.matching.assignment import Scores, permute_scores
from dimat.matching.fit import fit
from dimat.methods.admit import require_inbox
from dimat.methods.gauge import (
    GaugeId,
    align_to,
    colors,
    decode,
    decode_ids,
    encode,
    encode_ids,
    refine,
    transposed,
)
from dimat.methods.ordering.mend import mend
from dimat.methods.ordering.plan import Plan, make_plan
from dimat.methods.ordering.pooled import encode_moments, local_scores, measure_edges, pooled_scores
from dimat.methods.protocol import RoundContext
from dimat.methods.timer import Timer
from dimat.state import State
from dimat.symmetry import Permutation


@dataclass(frozen=True)
class Order:
    """What is done to states before they are mixed.

    Args:
        moves: For those whose units move, the agent itself among them, how they do.
        gauge: Whose order they are in then; None if that is as before.
        drift: Share of the agent's units that would rather have changed places, if measured.
        similarity: Mean similarity of matched units by group, over the neighbors compared with.
        margin: Median margin of the matches, likewise.
    """

    moves: Mapping[int, Permutation] = field(default_factory=dict)
    gauge: GaugeId | None = None
    drift: float | None = None
    similarity: Mapping[str, float] = field(default_factory=dict)
    margin: Mapping[str, float] = field(default_factory=dict)


class OrderRules(Protocol):
    """How agents come into one order, as the parameters of ``dimat`` say."""

    @property
    def statistics(self) -> str:
        """Local, or pooled by the two ends of an edge."""

    @property
    def sweeps(self) -> int:
        """Refinement sweeps."""

    @property
    def every(self) -> int:
        """Rounds between matchings of all agents; 0: only those of different gauges match."""

    @property
    def drift(self) -> float | None:
        """Share of an agent's units above which it is matched again; None: never."""


def pairwise(
    me: RoundContext, theirs: Mapping[int, State], how: OrderRules, watch: Timer
) -> Talk[Order]:
    """The paper's rule: every neighbor we heard is put in our order, and we stay as we are."""
    scores = yield from compare(me, theirs, list(theirs), how, watch)
    with watch:
        pooled = how.statistics == "pooled"
        moves = {
            j: align_to(
                me.analysis(),
                transposed(own),
                me.state,
                theirs[j],
                turned=pooled and j < me.agent,
            )
            for j, own in scores.items()
        }
        return Order(moves, None, None, *fits(me, scores, moves))


def one_gauge(
    me: RoundContext, theirs: Mapping[int, State], how: OrderRules, watch: Timer
) -> Talk[Order]:
    """All agents that can reach each other in this round come into one unit order.

    Where all are in one already, no activations are compared and nothing travels but the ids, and
    how far agents have drifted if that is tested.
    """
    forgets = how.every > 0 and (me.round - 1) % how.every == 0
    own = GaugeId(me.agent) if forgets or me.gauge is None else me.gauge
    ids = yield from gossip(me, own)
    plan = make_plan(me.topology.graph, ids, me.round)
    if plan is None:
        moves: dict[int, Permutation] = {}
        drifted = None
        if how.drift is not None and me.neighbors:
            moves, drifted = yield from mend(me, theirs, how.drift, watch)
        return Order(moves, own, drifted)
    compared: Collection[int] = plan.needs(me.agent, me.neighbors)
    if how.statistics == "pooled":
        compared = plan.compares(me.agent, me.neighbors, me.topology.graph)
    scores = yield from compare(me, theirs, compared, how, watch)
    moves = yield from compose(me, theirs, plan, scores, how, watch)
    for turn in colors(me.topology.graph) * how.sweeps:
        with watch:
            if me.agent in turn & plan.alone:
                moves[me.agent] = refine(me.analysis().symmetry, scores, moves, me)
        yield from announce(me, moves, turn & plan.alone)
    with watch:
        return Order(moves, plan.gauge, None, *fits(me, scores, moves))


def fits(
    me: RoundContext, scores: Mapping[int, Scores], moves: Mapping[int, Permutation]
) -> tuple[dict[str, float], dict[str, float]]:
    """Similarity and margin by group once all have moved, in the mean over those compared with."""
    symmetry = me.analysis().symmetry
    still = symmetry.identity()
    found = [
        fit(
            symmetry,
            permute_scores(symmetry, s, moves.get(j, still), moves.get(me.agent, still)),
            still,
        )
        for j, s in scores.items()
    ]
    names = found[0].similarity if found else {}
    return (
        {name: statistics.fmean(f.similarity[name] for f in found) for name in names},
        {name: statistics.fmean(f.margin[name] for f in found) for name in names},
    )


def compare(
    me: RoundContext,
    theirs: Mapping[int, State],
    neighbors: Collection[int],
    how: OrderRules,
    watch: Timer,
) -> Talk[dict[int, Scores]]:
    """For some neighbors the scores (their units, our units), on our images or on both ends'.

    Raises:
        TrainingError: If a message that is needed is lost.
    """
    if not neighbors:
        return {}
    with watch:
        others = {j: theirs[j] for j in neighbors}
        moments = measure_edges(me.analysis(), me.state, others, me.batches())
        if how.statistics == "local":
            return {j: local_scores(own) for j, own in moments.items()}
    # Both ends have to add up the same numbers: no precision of the link may round them.
    said = {j: exact(encode_moments(own)) for j, own in moments.items()}
    inbox = yield from require_inbox(Step(said, list(others)))
    with watch:
        heard = {j: from_exact(message) for j, message in inbox.items()}
        return {j: pooled_scores(own, heard[j], j, me.agent) for j, own in moments.items()}


def gossip(me: RoundContext, own: GaugeId) -> Talk[dict[int, GaugeId]]:
    """The gauges of all whom we can reach, told on from neighbor to neighbor.

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


def compose(
    me: RoundContext,
    theirs: Mapping[int, State],
    plan: Plan,
    scores: Mapping[int, Scores],
    how: OrderRules,
    watch: Timer,
) -> Talk[dict[int, Permutation]]:
    """For ourselves and our neighbors the permutation into the new order, down the tree.

    Raises:
        TrainingError: If a message that is needed is lost.
    """
    symmetry = me.analysis().symmetry
    moves = {me.agent: symmetry.identity()}
    parent = plan.parents.get(me.agent)
    if parent is not None:
        inbox = yield from require_inbox(Step(hear=[parent]))
        moves[me.agent] = moves[parent] = decode(symmetry, inbox[parent])
        if me.agent in plan.crossings:
            with watch:
                turned = how.statistics == "pooled" and me.agent < parent
                own = scores[parent]
                step = align_to(me.analysis(), own, theirs[parent], me.state, turned=turned)
                moves[me.agent] = symmetry.compose(moves[parent], step)
    others = [j for j in me.neighbors if j != parent]
    told = dict.fromkeys(me.neighbors, encode(moves[me.agent]))
    inbox = yield from require_inbox(Step(told, others))
    moves.update({j: decode(symmetry, inbox[j]) for j in others})
    return moves


def announce(me: RoundContext, moves: dict[int, Permutation], turn: Collection[int]) -> Talk[None]:
    """Those whose turn it is tell their neighbors; the others listen to them.

    Raises:
        TrainingError: If a message that is needed is lost.
    """
    mine = me.agent in turn
    send: dict[int, Mapping[str, Tensor]] = {}
    if mine:
        send = dict.fromkeys(me.neighbors, encode(moves[me.agent]))
    hear = [] if mine else [j for j in me.neighbors if j in turn]
    inbox = yield from require_inbox(Step(send, hear))
    symmetry = me.analysis().symmetry
    moves.update({j: decode(symmetry, message) for j, message in inbox.items()})
