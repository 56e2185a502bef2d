"""Several mixing steps in one round: states that are in one unit order are averaged again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from dimat.exchange import Talk
from dimat.methods.admit import require_all
from dimat.methods.messages import distance_from
from dimat.methods.protocol import Method, RoundContext, setting
from dimat.methods.robust import ROBUST_SETTING, check_robust, mix_heard
from dimat.state import State, is_number
from dimat.topology.chebyshev import chebyshev_factors

Exchange = Callable[[RoundContext], Talk[Mapping[int, State | None]]]


@dataclass(frozen=True, kw_only=True)
class RepeatedMixing(Method):
    """Methods of rounds in which states may be averaged several times.

    Args:
        mixing_steps: Exchanges of states in a round, k >= 1.
        chebyshev: Whether averages after the first are accelerated, for symmetric matrices.
        final_steps: Exchanges of states in the last round; as in the others if None.
        robust: How states are mixed where neighbors may lie: none (weighted average), clip or
            trimmed.
    """

    mixing_steps: int = setting("mixing.steps", 1)
    chebyshev: bool = setting("mixing.chebyshev", False)
    final_steps: int | None = setting("mixing.final_steps", None)
    robust: Literal["none", "clip", "trimmed"] = setting(ROBUST_SETTING, "none")

    def __post_init__(self) -> None:
        check_robust(self, self.robust)

    def mix_again(
        self,
        me: RoundContext,
        mixed: State,
        disagreement: float | None,
        exchange: Exchange,
        before: State | None = None,
    ) -> Talk[tuple[State, float | None]]:
        r"""The state after the k - 1 steps that follow the first.

        .. math:: x_{k+1} = x_{k-1} + \omega\,\Bigl(\sum_j \pi_{ij} x_{k,j} - x_{k-1}\Bigr)

        With :math:`\omega = 1` this is one more average. Running statistics are always averaged,
        as an extrapolated variance may be negative.

        Args:
            me: The agent's context; its state is that of before the round.
            mixed: The agent's state after the first step.
            disagreement: The distance from the neighbors before it, None if none was mixed in.
            exchange: Tells the state of a context, and gives those of all neighbors that are heard;
                None in place of one in another unit order.
            before: The state that ``mixed`` is an average of by the mixing matrix; None if it came
                about otherwise: then acceleration begins with it.

        Returns:
            The mixed state, and the distance from the neighbors when one was first mixed in.

        Raises:
            TrainingError: If a message is lost that the method needs.
        """
        last = before or mixed
        for factor in self._factors(me, from_start=before is not None):
            heard = yield from exchange(replace(me, state=mixed))
            if not self.tolerant:
                require_all(me.neighbors, heard)
            theirs = {j: state for j, state in heard.items() if state is not None}
            if disagreement is None:
                disagreement = distance_from(me, mixed, theirs)
            average = mix_heard(me, mixed, theirs, self.robust)
            if factor != 1.0:
                numbers = [k for k in me.parameters if is_number(average[k])]  # of integers is none
                average |= {k: torch.lerp(last[k], average[k], factor) for k in numbers}
            last, mixed = mixed, average
        return mixed, disagreement

    def _factors(self, me: RoundContext, *, from_start: bool) -> list[float]:
        r""":math:`\omega` of each step after the first; the first has no step before it."""
        steps = self.final_steps if me.round == me.rounds else None
        count = (steps or self.mixing_steps) - 1
        if not self.chebyshev or not count:
            return [1.0] * count
        contraction = me.topology.contraction
        if from_start:
            return chebyshev_factors(contraction, count + 1)
        return [1.0, *chebyshev_factors(contraction, count)]
