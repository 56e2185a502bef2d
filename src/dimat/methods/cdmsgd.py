"""``cdmsgd``: consensus with momentum that remembers the consensus as well."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.exchange import Talk
from dimat.methods.consensus import InEitherOrder
from dimat.methods.protocol import Learner
from dimat.methods.swap import combined


@dataclass(frozen=True)
class MomentumConsensus(InEitherOrder):
    r"""Polyak momentum over the whole displacement, agreement and descent together.

    .. math::
        v_i \leftarrow \mu v_i + \Bigl(\sum_j \pi_{ij}\theta_j - \theta_i\Bigr)
        - \alpha g_i(\theta_i), \qquad \theta_i \leftarrow \theta_i + v_i

    It is the optimizer's momentum that does this: the displacement to the average is handed to it
    as part of the gradient, :math:`g_i + (\theta_i - \sum_j\pi_{ij}\theta_j)/\alpha`. In the
    order adapt, then combine, momentum is of the gradients alone, and the method is ``cdsgd`` with
    momentum SGD.

    *Assumes* what ``cdsgd`` does, and momentum SGD as the optimizer: an adaptive one would rescale
    the displacement. *Breaks when* :math:`\mu` is large and the graph dense: momentum overshoots
    the average, and agents swing around it.

    Args:
        order: combine (then adapt) or adapt (then combine).

    References:
        Jiang et al., "Collaborative Deep Learning in Fixed Topology Networks", NeurIPS 2017.
    """

    def step(self, me: Learner) -> Talk[None]:
        """Gradient, displacement to the average, momentum step."""
        if self.order == "adapt":
            yield from self.along(me, me.gradient())
            return
        gradient, ours = me.gradient(), me.state()
        average = yield from combined(me, ours)
        away = {key: (ours[key] - average[key]) / me.lr for key in gradient}
        me.load({**average, **{key: ours[key] for key in gradient}})
        me.update({key: value + away[key] for key, value in gradient.items()})
