"""``cdsgd``: average with the neighbors at every step (D-PSGD)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dimat.exchange import Talk
from dimat.methods.messages import combined
from dimat.methods.protocol import Method, Need, StepContext, setting
from dimat.state import State

DOUBLY_STOCHASTIC: frozenset[Need] = frozenset({"rows", "columns"})


@dataclass(frozen=True)
class InEitherOrder(Method):
    """What consensus methods have in common: an average and a step at the same time.

    Args:
        order: combine (then adapt) or adapt (then combine).
    """

    order: Literal["combine", "adapt"] = setting("consensus.order", "combine")
    exchanges = "steps"

    @property
    def needs(self) -> frozenset[Need]:
        """Otherwise what it finds is not the minimum of the mean loss."""
        return DOUBLY_STOCHASTIC

    def along(self, me: StepContext, direction: State) -> Talk[None]:
        """Average with the neighbors and step along ``direction``, in this order or the other."""
        if self.order == "combine":
            me.load((yield from combined(me, me.state())))
            me.update(direction)
        else:
            me.update(direction)
            me.load((yield from combined(me, me.state())))


@dataclass(frozen=True)
class Consensus(InEitherOrder):
    r"""Decentralized parallel SGD: one average and one optimizer step, in either order.

    .. math::
        \text{combine, then adapt:}\quad
        \theta_i \leftarrow \sum_j \pi_{ij}\theta_j + \Delta(g_i(\theta_i))

    .. math::
        \text{adapt, then combine:}\quad
        \theta_i \leftarrow \sum_j \pi_{ij}\bigl(\theta_j + \Delta(g_j(\theta_j))\bigr)

    Gradients are always taken at the agent's own parameters, before they are averaged; weight decay
    is the optimizer's, at the parameters that it steps from. Momenta are not averaged, running
    statistics are.

    *Assumes* a doubly stochastic mixing matrix, units in one order (one shared init, or so many
    steps that they meet), and a step size that is small against the spectral gap. *Breaks when*
    shards differ: with a constant step size it stays biased by how much they do
    (``gradient-tracking`` does not); when links are slow: every step sends a state on every edge.

    Args:
        order: combine (then adapt) or adapt (then combine).

    References:
        Lian et al., "Can Decentralized Algorithms Outperform Centralized Algorithms?", NeurIPS
        2017; Jiang et al., "Collaborative Deep Learning in Fixed Topology Networks", NeurIPS 2017.
    """

    def step(self, me: StepContext) -> Talk[None]:
        """Gradient, average, optimizer step."""
        yield from self.along(me, me.gradient())
