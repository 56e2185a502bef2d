"""``dimat``: align the neighbors' units by activation matching, then average."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dimat.exchange import Step, Talk
from dimat.matching import activation_scores, matching
from dimat.matching.gauge import colors, decode, encode, refine, toward_parent
from dimat.merging import mix
from dimat.methods.averaging import distance_from, swap_states
from dimat.methods.protocol import Member, Merged
from dimat.state import State
from dimat.symmetry import Permutation


@dataclass(frozen=True)
class Dimat:
    r"""Match, align, mix.

    .. math:: \theta_i \leftarrow \pi_{ii}\theta_i + \sum_j \pi_{ij} P_{ij}\theta_j

    With ``gauge="pairwise"``, the paper's rule, every agent aligns each neighbor to itself in
    every round, on its own images. With ``gauge="tree"`` all agents agree on one unit order: in
    the matching rounds each aligns itself to its parent in a breadth-first tree from the graph's
    center, permutations are composed down the tree and refined in sweeps; in all other rounds
    states are in one order already and are mixed as they are.

    *Assumes* that agents compute similar features: trained on similar data, or matched early and
    often enough. *Breaks when* they have nothing in common to match (a split by class from
    scratch).

    Args:
        gauge: tree or pairwise.
        sweeps: Refinement sweeps of the tree gauge, >= 0.
        every: Rounds between matchings of the tree gauge; 0: only in round 1.

    References:
        Saadati et al., "DIMAT: Decentralized Iterative Merging-And-Training for Deep Learning
        Models", CVPR 2024.
    """

    gauge: str = "tree"
    sweeps: int = 3
    every: int = 0

    def merge(self, me: Member) -> Talk[Merged]:
        """One agent's part of one round."""
        if self.gauge == "pairwise":
            return (yield from self._pairwise(me))
        if self._matches_in(me.round) and me.neighbors:
            return (yield from self._tree(me))
        theirs = yield from swap_states(me)
        disagreement = distance_from(me, me.state, theirs)
        return Merged(mix([me.state, *theirs], me.weights), disagreement=disagreement)

    def _matches_in(self, number: int) -> bool:
        return number == 1 or (self.every > 0 and (number - 1) % self.every == 0)

    def _pairwise(self, me: Member) -> Talk[Merged]:
        theirs = yield from swap_states(me)
        start = time.perf_counter()
        symmetry = me.analysis().symmetry
        aligned: list[State] = []
        similarity: dict[str, float] = {}
        for state in theirs:
            (scores,) = activation_scores(me.analysis(), [me.state], state, me.batches())
            found = matching(symmetry, scores)
            aligned.append(symmetry.apply(found.permutation, state))
            for name, value in found.similarity.items():
                similarity[name] = similarity.get(name, 0.0) + value / len(theirs)
        match_s = time.perf_counter() - start
        disagreement = distance_from(me, me.state, aligned)
        mixed = mix([me.state, *aligned], me.weights)
        return Merged(mixed, None, disagreement, match_s, similarity)

    def _tree(self, me: Member) -> Talk[Merged]:
        theirs = dict(zip(me.neighbors, (yield from swap_states(me)), strict=True))
        start = time.perf_counter()
        analysis = me.analysis()
        symmetry = analysis.symmetry
        scores = dict(
            zip(
                theirs,
                activation_scores(analysis, list(theirs.values()), me.state, me.batches()),
                strict=True,
            )
        )
        match_s = time.perf_counter() - start
        gauges = yield from self._compose(me, scores)
        for turn in self._turns(me):
            start = time.perf_counter()
            if me.agent in turn:
                gauges[me.agent] = refine(symmetry, scores, gauges, me)
            match_s += time.perf_counter() - start
            yield from _announce(me, gauges, turn)
        own = symmetry.apply(gauges[me.agent], me.state)
        aligned = [symmetry.apply(gauges[j], state) for j, state in theirs.items()]
        disagreement = distance_from(me, own, aligned)
        mixed = mix([own, *aligned], me.weights)
        return Merged(mixed, gauges[me.agent], disagreement, match_s)

    def _compose(
        self, me: Member, scores: Mapping[int, Mapping[str, object]]
    ) -> Talk[dict[int, Permutation]]:
        """Everyone's permutation into the root's order, composed down the tree."""
        symmetry = me.analysis().symmetry
        gauges: dict[int, Permutation] = {}
        parent = {child: up for up, child in me.topology.tree()}.get(me.agent)
        if parent is None:
            gauges[me.agent] = symmetry.identity()
        else:
            inbox = yield Step(hear=[parent])
            gauges[parent] = decode(symmetry, inbox[parent])
            gauges[me.agent] = symmetry.compose(
                gauges[parent],
                toward_parent(symmetry, scores[parent]),  # type: ignore[arg-type]
            )
        others = [j for j in me.neighbors if j != parent]
        message = encode(gauges[me.agent])
        inbox = yield Step(dict.fromkeys(me.neighbors, message), others)
        gauges.update({j: decode(symmetry, inbox[j]) for j in others})
        return gauges

    def _turns(self, me: Member) -> Sequence[frozenset[int]]:
        """Who refines when: agents of one color are no neighbors, so they may move at once."""
        return colors(me.topology.graph) * self.sweeps


def _announce(me: Member, gauges: dict[int, Permutation], turn: frozenset[int]) -> Talk[None]:
    """Those whose turn it is tell their neighbors; the others listen to them."""
    symmetry = me.analysis().symmetry
    mine = me.agent in turn
    send = {j: encode(gauges[me.agent]) for j in me.neighbors} if mine else {}
    hear = [] if mine else [j for j in me.neighbors if j in turn]
    inbox = yield Step(send, hear)
    gauges.update({j: decode(symmetry, message) for j, message in inbox.items()})
