"""``wa``: plain weighted averaging, as in decentralized SGD with local steps."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.exchange import Talk
from dimat.merging import mix
from dimat.methods.admit import MAX_NORM_RATIO
from dimat.methods.messages import distance_from, swap_memories, swap_states
from dimat.methods.protocol import Method, Need, RoundContext, RoundResult, setting


@dataclass(frozen=True)
class Averaging(Method):
    r"""Average with the neighbors once a round, units as they stand.

    .. math:: \theta_i \leftarrow \pi_{ii}\theta_i + \sum_j \pi_{ij}\theta_j

    *Assumes* that all agents keep their units in the same order: one shared init, or frequent
    exchange. *Breaks when* agents start from different inits: the average of two networks that
    compute the same thing with different units computes nothing.

    Args:
        mix_memory: Whether the optimizers' memories are averaged too.
        max_norm_ratio: How many times as large, or as small, a neighbor's norm may be; None: any.

    References:
        Koloskova et al., "A Unified Theory of Decentralized SGD with Changing Topology and Local
        Updates", ICML 2020.
    """

    mix_memory: bool = setting("optimizer.on_merge", False, equals="mix")
    max_norm_ratio: float | None = setting("exchange.max_norm_ratio", MAX_NORM_RATIO)
    exchanges = "rounds"

    @property
    def needs(self) -> frozenset[Need]:
        """An average: rows that sum to 1."""
        return frozenset({"rows"})

    @property
    def tolerant(self) -> bool:
        """An average of those that are heard is one."""
        return True

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """Swap states, mix."""
        theirs = yield from swap_states(me, self.max_norm_ratio)
        memory = None
        if self.mix_memory:
            memory = yield from swap_memories(me, theirs, {}, self.max_norm_ratio)
        disagreement = distance_from(me, me.state, theirs)
        merged = mix([me.state, *theirs.values()], me.weights_of(theirs))
        return RoundResult(merged, disagreement=disagreement, memory=memory)
