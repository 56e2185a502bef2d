"""``dimat``: align the neighbors' units by activation matching, then combine."""

from __future__ import annotations

from dataclasses import dataclass, field

from dimat.exchange import Talk
from dimat.merging import COMBINERS, mix
from dimat.methods.order import one_gauge, pairwise
from dimat.methods.protocol import Member, Merged, Method, Need, Settings
from dimat.methods.stopwatch import Stopwatch
from dimat.methods.swap import distance_from, swap_memories, swap_states
from dimat.state import State
from dimat.symmetry import Permutation


@dataclass(frozen=True)
class Dimat(Method):
    r"""Match, align, mix.

    .. math:: \theta_i \leftarrow \pi_{ii}\theta_i + \sum_j \pi_{ij} P_{ij}\theta_j

    With ``gauge="pairwise"``, the paper's rule, every agent aligns each neighbor to itself in
    every round, on its own images. With ``gauge="tree"`` all agents agree on one unit order, and
    every state has the id of the order it is in. Where ids differ (at first all do) agents are
    matched along a breadth-first tree, permutations are composed down the tree and refined in
    sweeps; where they are equal, states are mixed as they are, but for an agent that has drifted.

    *Assumes* that agents compute similar features: trained on similar data, or matched early and
    often enough. *Breaks when* they have nothing in common to match (a split by class from
    scratch).

    Args:
        settings: How it matches and combines.

    References:
        Saadati et al., "DIMAT: Decentralized Iterative Merging-And-Training for Deep Learning
        Models", CVPR 2024.
    """

    settings: Settings = field(default_factory=Settings)
    exchanges = "rounds"
    matches = True

    @property
    def needs(self) -> frozenset[Need]:
        """An average; and edges both ways where both ends of one have to compare."""
        alone = self.settings.gauge == "pairwise" and self.settings.statistics == "local"
        return frozenset({"rows"} if alone else {"rows", "two-way"})

    def merge(self, me: Member) -> Talk[Merged]:
        """One agent's part of one round."""
        theirs = yield from swap_states(me)
        matched, combined = Stopwatch(), Stopwatch()
        align = pairwise if self.settings.gauge == "pairwise" else one_gauge
        order = yield from align(me, theirs, self.settings, matched)
        mixes = self.settings.mix_memory
        memory = (yield from swap_memories(me, order.moves)) if mixes else None
        own = _moved(me, me.state, order.moves.get(me.agent))
        aligned = [_moved(me, state, order.moves.get(j)) for j, state in theirs.items()]
        disagreement = distance_from(me, own, aligned)
        with combined:
            merged = self._combine(me, [own, *aligned])
        return Merged(
            merged,
            order.moves.get(me.agent),
            {j: p for j, p in order.moves.items() if j != me.agent},
            disagreement,
            order.drift,
            matched.seconds,
            combined.seconds,
            order.gauge,
            memory,
            bool(aligned) and COMBINERS[self.settings.combine].needs_batches,
            similarity=order.similarity,
            margin=order.margin,
        )

    def _combine(self, me: Member, states: list[State]) -> State:
        if len(states) == 1:  # nobody to combine with
            return mix(states, me.weights)
        combiner = COMBINERS[self.settings.combine]
        batches = me.batches() if combiner.needs_batches else []
        return combiner.combine(me.analysis(), states, me.weights, batches)


def _moved(me: Member, state: State, move: Permutation | None) -> State:
    return state if move is None else me.analysis().symmetry.apply(move, state)
