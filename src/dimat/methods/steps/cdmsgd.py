"""``cdmsgd``: average with the neighbors at every step, then along a velocity of gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dimat.errors import ConfigError
from dimat.exchange import Talk
from dimat.methods.protocol import StepContext
from dimat.methods.steps.consensus import InEitherOrder


@dataclass(frozen=True)
class MomentumConsensus(InEitherOrder):
    r"""Consensus SGD with a velocity of each agent's own gradients, which is never averaged.

    .. math::
        v_i \leftarrow \mu v_i - \alpha g_i(\theta_i), \qquad
        \theta_i \leftarrow \sum_j \pi_{ij}\theta_j + v_i
        \quad\text{or}\quad \sum_j \pi_{ij}(\theta_j + v_j)

    The learning rate is part of the velocity: a step taken at a high rate is carried on at full
    length when the rate has gone down. PyTorch's momentum SGD leaves it out,
    :math:`b_i \leftarrow \mu b_i + g_i` and :math:`\Delta = -\alpha b_i`, so that ``cdsgd`` with
    that optimizer is this method while :math:`\alpha` is constant, and another one under a
    schedule.

    *Assumes* what ``cdsgd`` does, and momentum SGD as the optimizer: an adaptive one has no such
    velocity. *Breaks when* shards differ: every agent's velocity runs along its own gradients, so
    momentum multiplies the bias of ``cdsgd``.

    Args:
        order: combine (then adapt) or adapt (then combine).

    References:
        Jiang et al., "Collaborative Deep Learning in Fixed Topology Networks", NeurIPS 2017,
        Algorithm 2.
    """

    def step(self, me: StepContext) -> Talk[None]:
        """Gradient, average, velocity step."""
        gradient, rate = me.gradient(), me.lr
        if me.kept and rate:  # b is -v / alpha: it follows alpha, so that v stays what it was
            me.scale_momentum(float(me.kept["step"]["lr"]) / rate)
        me.kept["step"] = {"lr": torch.tensor(rate, dtype=torch.float64)}
        yield from self.along(me, gradient)

    def check_optimizer(self, method: str, optimizer: str) -> None:
        """Refuse an adaptive optimizer, which has no velocity of this method's kind."""
        if optimizer not in ("sgd", "msgd"):
            raise ConfigError(
                f"method '{method}' is momentum SGD, and setting 'optimizer.name' is "
                f"'{optimizer}': must be 'msgd' (or 'sgd', without momentum); 'cdsgd' takes any "
                "optimizer"
            )
