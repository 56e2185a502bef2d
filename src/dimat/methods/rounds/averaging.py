"""``wa``: plain weighted averaging, as in decentralized SGD with local steps."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.exchange import Talk
from dimat.methods.admit import MAX_NORM_RATIO, require_all
from dimat.methods.messages import distance_from, swap_memories, swap_states
from dimat.methods.mixing import RepeatedMixing
from dimat.methods.protocol import Need, RoundContext, RoundResult, setting
from dimat.methods.robust import mix_heard, robust_needs


@dataclass(frozen=True)
class Averaging(RepeatedMixing):
    r"""Average with the neighbors once a round, units as they stand.

    .. math:: \theta_i \leftarrow \pi_{ii}\theta_i + \sum_j \pi_{ij}\theta_j

    With ``mixing_steps`` = k agents do so k times, each time with what their neighbors have become:
    that is averaging once by :math:`\Pi^k`, at k times the bytes, or with ``chebyshev`` by a
    polynomial of :math:`\Pi` that mixes faster. Its coefficients have either sign, so it is for
    symmetric matrices, and no message may be missing. Optimizer memories are averaged once.

    With more ``final_steps`` gossip is sparse all along, and the last round merges all agents.

    *Assumes* that all agents keep their units in the same order: one shared init, or frequent
    exchange. *Breaks when* agents start from different inits: the average of two networks that
    compute the same thing with different units computes nothing.

    Args:
        mix_memory: Whether the optimizers' memories are averaged too.
        max_norm_ratio: How many times as large, or as small, a neighbor's norm may be; None: any.
        mixing_steps: Exchanges of states in a round, k >= 1.
        chebyshev: Whether averages after the first are accelerated.
        final_steps: Exchanges of states in the last round; as in the others if None.
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
    exchanges = "rounds"

    @property
    def needs(self) -> frozenset[Need]:
        """An average: rows that sum to 1. An accelerated one: a symmetric matrix."""
        own: frozenset[Need] = frozenset({"rows", "symmetric"} if self.chebyshev else {"rows"})
        return own | robust_needs(self.robust)

    @property
    def tolerant(self) -> bool:
        """An average of those that are heard is one; an extrapolation is not."""
        return not self.chebyshev

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """Swap states, mix; and again, if set so."""
        theirs = yield from swap_states(me, self.max_norm_ratio)
        if not self.tolerant:
            require_all(me.neighbors, theirs)
        memory = None
        if self.mix_memory:
            memory = yield from swap_memories(me, theirs, {}, self.max_norm_ratio)
        merged, disagreement = yield from self.mix_again(
            me,
            mix_heard(me, me.state, theirs, self.robust),
            distance_from(me, me.state, theirs),
            lambda now: swap_states(now, self.max_norm_ratio),
            before=me.state,
        )
        return RoundResult(merged, disagreement=disagreement, memory=memory)
