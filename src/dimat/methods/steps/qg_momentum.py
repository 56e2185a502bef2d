"""``qg-momentum``: momentum along what all agents' steps changed, not along an agent's own."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.errors import ConfigError
from dimat.exchange import Talk
from dimat.methods.messages import combined
from dimat.methods.protocol import Method, Need, StepContext, setting
from dimat.methods.steps.consensus import DOUBLY_STOCHASTIC


@dataclass(frozen=True)
class QuasiGlobalMomentum(Method):
    r"""Consensus SGD with a momentum of what an agent's parameters did, exchange included.

    .. math::
        \theta_i' = \sum_j \pi_{ij}\bigl(\theta_j - \alpha\,(g_j(\theta_j) + \mu m_j)\bigr), \qquad
        m_i \leftarrow \mu m_i + (1-\mu)\,\frac{\theta_i - \theta_i'}{\alpha}

    An agent's own gradients point to its own shard; what its parameters did from one exchange to
    the next is nearer to what all gradients together say, and no message more is needed to know it.
    Where nothing moves any more :math:`m_i` is 0, so a constant rate leads to the same place as
    ``cdsgd`` that adapts first; the momenta of ``cdmsgd`` lead as far from the minimum of the mean
    loss as a rate of :math:`\alpha/(1-\mu)` would. A mean gradient that lasts is followed at that
    rate here, too, though only after some :math:`1/(1-\mu)^2` steps.

    The momentum takes the place of that of momentum SGD, whose own buffer is emptied before every
    step; weight decay is the optimizer's, and is a part of what the parameters do. The paper's two
    factors are one, as in its experiments. Under a schedule every displacement is divided by the
    rate that it was made at. An agent alone takes its optimizer's own steps.

    *Assumes* what ``cdsgd`` does, and momentum SGD as the optimizer. *Breaks when* messages are
    rounded and rates are small: an error of the parameters is divided by the rate
    (``exchange.precision: bfloat16``); or when the graph mixes slowly, as what is far away is heard
    of late.

    Args:
        momentum: :math:`\mu`, in [0, 1).

    References:
        Lin et al., "Quasi-Global Momentum: Accelerating Decentralized Deep Learning on
        Heterogeneous Data", ICML 2021, Algorithm 1 (QG-DSGDm).
    """

    momentum: float = setting("optimizer.momentum", 0.9)
    exchanges = "steps"
    keeps = 1

    @property
    def needs(self) -> frozenset[Need]:
        """What ``cdsgd`` needs."""
        return DOUBLY_STOCHASTIC

    def step(self, me: StepContext) -> Talk[None]:
        """Gradient and momentum, average, and what that did."""
        if me.topology.num_agents == 1:
            return (yield from super().step(me))
        gradient, rate, before = me.gradient(), me.lr, me.state()
        past = me.kept.get("momentum", {})
        along = {k: g + self.momentum * past[k] if past else g for k, g in gradient.items()}
        me.scale_momentum(0.0)
        me.update(along)
        after = yield from combined(me, me.state())
        me.load(after)
        if not rate:  # nothing but the average moved the parameters: no rate to divide that by
            return
        moved = {k: (before[k] - after[k]) * ((1 - self.momentum) / rate) for k in gradient}
        me.kept["momentum"] = {
            k: self.momentum * past[k] + step if past else step for k, step in moved.items()
        }

    def check_optimizer(self, method: str, optimizer: str) -> None:
        """Refuse an optimizer that has no momentum which this one could take the place of."""
        if optimizer != "msgd":
            raise ConfigError(
                f"method '{method}' is momentum SGD with a momentum of its own, and setting "
                f"'optimizer.name' is '{optimizer}': must be 'msgd'; 'cdsgd' takes any optimizer"
            )
