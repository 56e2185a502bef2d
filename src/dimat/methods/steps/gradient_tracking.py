"""``gradient-tracking``: agents also agree on the mean gradient."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.exchange import Talk
from dimat.methods.messages import combined
from dimat.methods.protocol import StepContext
from dimat.methods.steps.consensus import InEitherOrder


@dataclass(frozen=True)
class GradientTracking(InEitherOrder):
    r"""Every agent steps along its estimate of everybody's mean gradient.

    .. math::
        y_i \leftarrow \sum_j \pi_{ij} y_j + g_i(\theta_i) - g_i^{\text{last}}, \qquad
        \theta_i \leftarrow \sum_j \pi_{ij}\theta_j + \Delta(y_i)
        \quad\text{or}\quad \sum_j \pi_{ij}\bigl(\theta_j + \Delta(y_j)\bigr)

    The mean of all :math:`y_i` is always the mean of the last gradients.

    *Assumes* what ``cdsgd`` does, but not that shards are alike: with exact gradients and a
    constant step size it reaches the minimum of the mean loss. *Breaks when* gradients are noisy:
    the difference of two of them is noisier still, and it sends twice what ``cdsgd`` does.

    Args:
        order: combine (then adapt) or adapt (then combine).

    References:
        Nedić et al., "Achieving Geometric Convergence for Distributed Optimization over
        Time-Varying Graphs", SIAM J. Optim. 2017; Pu and Nedić, "Distributed Stochastic Gradient
        Tracking Methods", Math. Program. 2021.
    """

    keeps = 2  # its estimate, and its last gradient

    def step(self, me: StepContext) -> Talk[None]:
        """Track, then a step as ``cdsgd`` takes it."""
        gradient = me.gradient()
        tracker = gradient
        if me.kept:
            agreed = yield from combined(me, me.kept["tracker"], "gradient")
            last = me.kept["gradient"]
            tracker = {key: value + (agreed[key] - last[key]) for key, value in gradient.items()}
        me.kept.update(tracker=tracker, gradient=gradient)
        yield from self.along(me, tracker)
