"""``wa``: plain weighted averaging, as in decentralized SGD with local steps."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.errors import check_known
from dimat.exchange import Talk
from dimat.merging import COMBINERS
from dimat.methods.admit import MAX_NORM_RATIO, require_all
from dimat.methods.combining import (
    combine_heard,
    has_statistics,
    needs_layers,
    swap_combiner_statistics,
)
from dimat.methods.messages import distance_from, swap_memories, swap_states
from dimat.methods.mixing import RepeatedMixing
from dimat.methods.protocol import Need, RoundContext, RoundReport, RoundResult, setting
from dimat.methods.robust import robust_needs
from dimat.methods.timer import Timer


@dataclass(frozen=True)
class Averaging(RepeatedMixing):
    r"""Average with the neighbors once a round, units as they stand.

    .. math:: \theta_i \leftarrow \pi_{ii}\theta_i + \sum_j \pi_{ij}\theta_j

    With ``mixing_steps`` = k agents do so k times, each time with what their neighbors have become:
    that is averaging once by :math:`\Pi^k`, at k times the bytes, or with ``chebyshev`` by a
    polynomial of :math:`\Pi` that mixes faster. Its coefficients have either sign, so it is for
    symmetric matrices, and no message may be missing. Optimizer memories are averaged once.

    With more ``final_steps`` gossip is sparse all along, and the last round merges all agents.

    With ``combine`` states are combined by another rule than the average, units still as they
    stand: beside ``dimat`` with that combiner it shows what is won by alignment.

    *Assumes* that all agents keep their units in the same order: one shared init, or frequent
    exchange. *Breaks when* agents start from different inits: the average of two networks that
    compute the same thing with different units computes nothing.

    Args:
        mix_memory: Whether the optimizers' memories are averaged too.
        max_norm_ratio: How many times as large, or as small, a neighbor's norm may be; None: any.
        mixing_steps: Exchanges of states in a round, k >= 1.
        chebyshev: Whether averages after the first are accelerated.
        final_steps: Exchanges of states in the last round; as in the others if None.
        combine: Name of a combiner; statistics travel for ``gram`` and ``fisher``; ``lora-aligned``
            and ``lora-product`` are for low-rank adapters.
        statistics_budget: Numbers of statistics for each number of the weights, at most, where the
            combiner's statistics travel.
        robust: How states are mixed where neighbors may lie: none (weighted average), clip or
            trimmed.

    References:
        Koloskova et al., "A Unified Theory of Decentralized SGD with Changing Topology and Local
        Updates", ICML 2020; Golub and Varga, "Chebyshev Semi-Iterative Methods", Numer. Math.
        1961; Zhu et al., "On the Surprising Effectiveness of a Single Global Merging in
        Decentralized Learning", ICLR 2026.
    """

    mix_memory: bool = setting("optimizer.on_merge", False, equals="mix")
    max_norm_ratio: float | None = setting("exchange.max_norm_ratio", MAX_NORM_RATIO)
    combine: str = "average"  # no setting of a run: the control of another method stays plain
    statistics_budget: float = setting("merging.statistics_budget", 5.0)
    exchanges = "rounds"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("combine", self.combine, COMBINERS)

    @property
    def needs(self) -> frozenset[Need]:
        """An average: rows that sum to 1. An accelerated one: a symmetric matrix."""
        own: frozenset[Need] = frozenset({"rows", "symmetric"} if self.chebyshev else {"rows"})
        return own | robust_needs(self.robust)

    @property
    def tolerant(self) -> bool:
        """An average of those that are heard is one; an extrapolation is not."""
        return not self.chebyshev

    @property
    def combiner(self) -> str:
        """Name of the combiner."""
        return self.combine

    @property
    def needs_graph(self) -> bool:
        """Whether the combiner looks at layers."""
        return needs_layers(self.combine)

    @property
    def largest_message(self) -> float:
        """The size of its largest message, in states: statistics may be larger than a state."""
        own = 1 + self.statistics_budget if has_statistics(self.combine) else 0.0
        return max(super().largest_message, own)

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """Swap states, combine; mix again, if set so."""
        timer = Timer()
        theirs = yield from swap_states(me, self.max_norm_ratio)
        if not self.tolerant:
            require_all(me.neighbors, theirs)
        statistics = yield from swap_combiner_statistics(
            me,
            self.combine,
            theirs,
            {},
            timer,
            budget=self.statistics_budget,
            max_norm_ratio=self.max_norm_ratio,
        )
        memory = None
        if self.mix_memory:
            memory = yield from swap_memories(me, theirs, {}, self.max_norm_ratio)
        with timer:
            combined, calibrated = combine_heard(
                me, self.combine, me.state, theirs, statistics, self.robust
            )
        merged, disagreement = yield from self.mix_again(
            me,
            combined,
            distance_from(me, me.state, theirs),
            lambda now: swap_states(now, self.max_norm_ratio),
            before=me.state if self.combine == "average" else None,
        )
        return RoundResult(
            merged,
            disagreement=disagreement,
            memory=memory,
            calibrated=calibrated and (merged is combined or has_statistics(self.combine)),
            report=RoundReport(merge_s=timer.seconds),
        )
