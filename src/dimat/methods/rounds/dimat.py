"""``dimat``: align the neighbors' units by activation matching, then combine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from dimat.errors import ConfigError
from dimat.exchange import Talk
from dimat.matching.procrustes import turned_to
from dimat.methods.admit import MAX_NORM_RATIO, require_all
from dimat.methods.combining import combine_heard, has_statistics, swap_combiner_statistics
from dimat.methods.messages import distance_from, swap_memories, swap_states
from dimat.methods.mixing import RepeatedMixing
from dimat.methods.ordering.common import Reordering
from dimat.methods.ordering.pairwise import pairwise
from dimat.methods.ordering.spread import spread, swap_states_with_gauge
from dimat.methods.ordering.tree import tree
from dimat.methods.protocol import Need, RoundContext, RoundReport, RoundResult, setting
from dimat.methods.robust import robust_needs
from dimat.methods.timer import Timer
from dimat.state import State
from dimat.symmetry import Permutation


@dataclass(frozen=True)
class Dimat(RepeatedMixing):
    r"""Match, align, mix.

    .. math:: \theta_i \leftarrow \pi_{ii} P_{ii}\theta_i + \sum_j \pi_{ij} P_{ij}\theta_j

    With ``gauge="pairwise"``, the paper's rule, every agent aligns each neighbor to itself in
    every round, on its own images: its own permutation is the identity. With ``gauge="tree"`` all
    agents agree on one unit order, and every state has the id of the order it is in. Where ids
    differ (at first all do) agents are matched along a breadth-first tree, permutations are
    composed down the tree and refined in sweeps; where they are equal, states are mixed as they
    are. With ``gauge="spread"`` an order is taken over from neighbor to neighbor: every agent moves
    into the oldest one that it hears of, and mixes with those who are in it, as they are: only its
    own units are permuted. That needs one
    message an edge, and nobody in particular: who is not heard, or is in another order still, is
    left out.

    With ``mixing_steps`` = k the states that have come out are averaged k - 1 times more with those
    of the neighbors in the same order; with ``chebyshev`` these averages are accelerated, as in
    ``wa``; in the last round there are ``final_steps`` of them.

    *Assumes* that agents compute similar features: trained on similar data, or matched early and
    often enough. *Breaks when* they have nothing in common to match (a split by class from
    scratch): units then stay as they are, and averages of them are worth no more than ``wa``'s.

    Args:
        gauge: spread (one unit order that neighbors take over from each other), tree (one for all,
            at once) or pairwise (each aligns its neighbors to itself).
        statistics: local, or pooled by the two ends of an edge.
        sweeps: Refinement sweeps when agents come into one gauge, >= 0.
        every: Rounds between matchings of all agents; 0: only those of different gauges match.
        null_margin: The share by which matching must bring together what agents' outputs make of
            like units, in [0, 1); else units stay as they are. With spread and tree; None: any
            matching is kept.
        continuous: Whether neighbors are aligned by matrices too (heads, normed streams, adapters),
            each to this agent: agents keep frames of their own.
        combine: Name of a combiner, for what is aligned.
        statistics_budget: Numbers of statistics for each number of the weights, at most, where the
            combiner's statistics travel.
        mix_memory: Whether the optimizers' memories are averaged too, permuted alike.
        max_norm_ratio: How many times as large, or as small, a neighbor's norm may be; None: any.
        mixing_steps: Exchanges of states in a round, k >= 1; more than one needs one unit order.
        chebyshev: Whether averages after the first are accelerated.
        final_steps: Exchanges of states in the last round; as in the others if None.
        robust: How states are mixed where neighbors may lie: none (weighted average), clip or
            trimmed.

    References:
        Saadati et al., "DIMAT: Decentralized Iterative Merging-And-Training for Deep Learning
        Models", CVPR 2024.
    """

    gauge: Literal["spread", "tree", "pairwise"] = setting("matching.gauge", "spread")
    statistics: Literal["local", "pooled"] = setting("matching.statistics", "local")
    sweeps: int = setting("matching.sweeps", 3)
    every: int = setting("matching.every", 0)
    null_margin: float | None = setting("matching.null_margin", 0.5)
    continuous: bool = setting("matching.continuous", False)
    combine: str = setting("merging.combine", "average")
    statistics_budget: float = setting("merging.statistics_budget", 5.0)
    mix_memory: bool = setting("optimizer.on_merge", False, equals="mix")
    max_norm_ratio: float | None = setting("exchange.max_norm_ratio", MAX_NORM_RATIO)
    exchanges = "rounds"
    matches = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, steps in (("steps", self.mixing_steps), ("final_steps", self.final_steps or 1)):
            if steps > 1 and self.gauge == "pairwise":
                raise ConfigError(
                    f"setting 'mixing.{name}' is {steps}, and 'matching.gauge' is 'pairwise', with "
                    "which agents come into no order that all share: must be 1, or use gauge "
                    "spread or tree"
                )
        if self.continuous:
            self._check_continuous()

    def _check_continuous(self) -> None:
        """Refuse what needs all agents in one frame, which matrices do not give them."""
        clashes = {
            "mixing.steps": self.mixing_steps > 1,
            "mixing.final_steps": (self.final_steps or 1) > 1,
            "optimizer.on_merge": self.mix_memory,
            "merging.combine": has_statistics(self.combine),
        }
        for name, clash in clashes.items():
            if clash:
                raise ConfigError(
                    f"setting 'matching.continuous' is true, with which every agent has a frame of "
                    f"its own, and '{name}' needs one that all share: leave one of both out"
                )

    @property
    def needs(self) -> frozenset[Need]:
        """Rows that sum to 1; two-way edges, unless one message of each neighbor is enough."""
        if self.chebyshev:
            return frozenset({"rows", "symmetric"})
        own: frozenset[Need] = frozenset({"rows"} if self.tolerant else {"rows", "two-way"})
        return own | robust_needs(self.robust)

    @property
    def tolerant(self) -> bool:
        """Where an agent needs one message of a neighbor, and can do without it."""
        if self.gauge == "pairwise":
            return self.statistics == "local"
        return self.gauge == "spread" and not self.chebyshev

    @property
    def combiner(self) -> str:
        """Name of the combiner."""
        return self.combine

    @property
    def period(self) -> int:
        """Rounds between matchings of all agents."""
        return self.every if self.gauge == "tree" and self.every else 1

    @property
    def own_passes(self) -> int:
        """One to compare, and two for each match that may have to beat the null."""
        if self.null_margin is None or self.gauge == "pairwise":
            return 1
        return 3 if self.gauge == "spread" else 3 + 2 * self.sweeps

    @property
    def largest_message(self) -> float:
        """The size of its largest message, in states: statistics may be larger than a state."""
        own = 1 + self.statistics_budget if has_statistics(self.combine) else 0.0
        return max(super().largest_message, own)

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """Exchange states and match units; permute; average."""
        matched, combined = Timer(), Timer()
        theirs, order = yield from self._exchange_and_match(me, matched)
        own = _permuted(me, me.state, order.permutations.get(me.agent))
        aligned = {j: _permuted(me, x, order.permutations.get(j)) for j, x in theirs.items()}
        if self.continuous:
            with matched:
                aligned = turned_to(me.analysis(), own, aligned, me.batches())
        statistics = yield from swap_combiner_statistics(
            me,
            self.combine,
            theirs,
            order.permutations,
            combined,
            budget=self.statistics_budget,
            max_norm_ratio=self.max_norm_ratio,
        )
        with combined:
            merged, calibrated = combine_heard(
                me, self.combine, own, aligned, statistics, self.robust
            )
        memory = None
        if self.mix_memory:
            most = self.max_norm_ratio
            memory = yield from swap_memories(me, theirs, order.permutations, most)
        there, apart = replace(me, gauge=order.gauge), distance_from(me, own, aligned)
        final, apart = yield from self.mix_again(there, merged, apart, self._swap_in_order)
        if final is not merged and not has_statistics(self.combine):
            # An average of networks that were fitted, each on its agent's images, is not: repair,
            # cnn on IID digits, 4 steps, after merge 4: 63.4 and 82.6, recalibrated 76.4 and 84.3.
            # By Grams, fitted on what all have seen, it wins nothing (by class, n = 3).
            calibrated = False
        return RoundResult(
            final,
            permutation=order.permutations.get(me.agent),
            disagreement=apart,
            gauge=order.gauge,
            memory=memory,
            calibrated=calibrated,
            report=RoundReport(
                match_s=matched.seconds,
                merge_s=combined.seconds,
                alignments={j: p for j, p in order.permutations.items() if j != me.agent},
                similarity=order.similarity,
                margin=order.margin,
            ),
        )

    def _exchange_and_match(
        self, me: RoundContext, timer: Timer
    ) -> Talk[tuple[Mapping[int, State], Reordering]]:
        """The neighbors' states that are mixed, and the permutations into one order with ours."""
        if self.gauge == "spread":
            heard = yield from swap_states_with_gauge(me, self.max_norm_ratio)
            if not self.tolerant:
                require_all(me.neighbors, heard)
            return spread(me, heard, timer, self.null_margin)
        theirs = yield from swap_states(me, self.max_norm_ratio)
        if not self.tolerant:
            require_all(me.neighbors, theirs)
        pooled = self.statistics == "pooled"
        if self.gauge == "pairwise":
            return theirs, (yield from pairwise(me, theirs, timer, pooled=pooled))
        return theirs, (
            yield from tree(
                me,
                theirs,
                timer,
                pooled=pooled,
                sweeps=self.sweeps,
                every=self.every,
                null_margin=self.null_margin,
            )
        )

    def _swap_in_order(self, me: RoundContext) -> Talk[Mapping[int, State | None]]:
        """The neighbors' states where they are in our order, which they need not be by now."""
        if self.gauge == "tree":
            return (yield from swap_states(me, self.max_norm_ratio))
        heard = yield from swap_states_with_gauge(me, self.max_norm_ratio)
        return {j: state if gauge == me.gauge else None for j, (gauge, state) in heard.items()}


def _permuted(me: RoundContext, state: State, permutation: Permutation | None) -> State:
    return state if permutation is None else me.analysis().symmetry.apply(permutation, state)
