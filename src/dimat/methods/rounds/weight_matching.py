"""``wm``: align the neighbors' units by their weights, then average; no data is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dimat.exchange import Talk
from dimat.matching import Problem, Weights
from dimat.methods.admit import MAX_NORM_RATIO
from dimat.methods.messages import distance_from, swap_memories, swap_states
from dimat.methods.protocol import Method, Need, RoundContext, RoundReport, RoundResult, setting
from dimat.methods.robust import ROBUST_SETTING, check_robust, mix_heard, robust_needs
from dimat.methods.timer import Timer


@dataclass(frozen=True)
class WeightMatching(Method):
    r"""In every round each agent aligns each neighbor to itself by weight matching.

    .. math::
        \theta_i \leftarrow \pi_{ii}\theta_i + \sum_j \pi_{ij} P_{ij}\theta_j, \qquad
        P_{ij} = \arg\max_P \langle \theta_i, P\theta_j \rangle

    *Assumes* that units which compute the same thing have similar weights: wide networks, or
    networks that have a past in common. *Breaks when* networks are narrow and were trained apart:
    there activations tell units apart that weights do not.

    Args:
        mix_memory: Whether the optimizers' memories are averaged too, permuted alike.
        max_norm_ratio: How many times as large, or as small, a neighbor's norm may be; None: any.
        robust: How states are mixed where neighbors may lie: none (weighted average), clip or
            trimmed.

    References:
        Ainsworth et al., "Git Re-Basin: Merging Models modulo Permutation Symmetries", ICLR 2023.
    """

    mix_memory: bool = setting("optimizer.on_merge", False, equals="mix")
    max_norm_ratio: float | None = setting("exchange.max_norm_ratio", MAX_NORM_RATIO)
    robust: Literal["none", "clip", "trimmed"] = setting(ROBUST_SETTING, "none")
    exchanges = "rounds"
    matches = True

    def __post_init__(self) -> None:
        check_robust(self, self.robust)

    @property
    def needs(self) -> frozenset[Need]:
        """An average: rows that sum to 1."""
        own: frozenset[Need] = frozenset({"rows"})
        return own | robust_needs(self.robust)

    @property
    def needs_graph(self) -> bool:
        """Weights are compared, nothing else."""
        return False

    @property
    def tolerant(self) -> bool:
        """Whether lost messages are done without: neighbors are matched one by one."""
        return True

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """Swap states, align each neighbor, mix."""
        theirs = yield from swap_states(me, self.max_norm_ratio)
        matched, combined = Timer(), Timer()
        with matched:
            moves = {
                j: Weights().match(Problem(me.analysis(), [me.state, state], [0.5, 0.5]))[1]
                for j, state in theirs.items()
            }
        order = {j: move.permutation for j, move in moves.items()}
        memory = None
        if self.mix_memory:
            memory = yield from swap_memories(me, theirs, order, self.max_norm_ratio)
        with combined:
            aligned = {j: me.analysis().symmetry.apply(order[j], s) for j, s in theirs.items()}
            merged = mix_heard(me, me.state, aligned, self.robust)
        return RoundResult(
            merged,
            disagreement=distance_from(me, me.state, aligned),
            memory=memory,
            report=RoundReport(matched.seconds, combined.seconds, alignments=order),
        )
