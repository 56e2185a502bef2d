"""``ldsgd``: spells of local steps, spells of consensus steps."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.exchange import Talk
from dimat.methods.protocol import StepContext, setting
from dimat.methods.steps.consensus import InEitherOrder


@dataclass(frozen=True)
class LocalDecentralized(InEitherOrder):
    r"""Local decentralized SGD: of :math:`I_1 + I_2` steps the last :math:`I_2` exchange.

    .. math::
        \theta_i \leftarrow \theta_i + \Delta(g_i) \quad (I_1 \text{ times}), \qquad
        \theta_i \leftarrow \sum_j \pi_{ij}\theta_j + \Delta(g_i) \quad (I_2 \text{ times})

    *Assumes* what ``cdsgd`` does. *Breaks when* :math:`I_1` is large and shards differ: agents walk
    apart faster than they are brought together.

    Args:
        order: Of a consensus step: combine (then adapt) or adapt (then combine).
        quiet_steps: :math:`I_1 \ge 0`.
        mixing_steps: :math:`I_2 \ge 1`.

    References:
        Li et al., "Communication-Efficient Local Decentralized SGD Methods", 2019 (LD-SGD).
    """

    quiet_steps: int = setting("consensus.quiet_steps", 4)
    mixing_steps: int = setting("consensus.mixing_steps", 1)

    @property
    def period(self) -> int:
        """The length of a period: local steps, then consensus steps."""
        return self.quiet_steps + self.mixing_steps

    def step(self, me: StepContext) -> Talk[None]:
        """One step of a period."""
        quiet = me.steps % self.period < self.quiet_steps
        yield from super().step(me) if quiet else self.along(me, me.gradient())
