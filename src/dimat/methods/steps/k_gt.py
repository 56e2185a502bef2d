"""``k-gt``: gradient tracking with local steps."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.exchange import Talk
from dimat.methods.messages import combined
from dimat.methods.protocol import Method, Need, StepContext, setting
from dimat.methods.steps.consensus import DOUBLY_STOCHASTIC
from dimat.state import State


@dataclass(frozen=True)
class LocalGradientTracking(Method):
    r"""Local steps along corrected gradients; every K-th one exchanges, and corrects anew.

    .. math::
        \theta_i \leftarrow \theta_i + \Delta(g_i^k + c_i), \quad k = 1 \dots K, \qquad
        z_i = \tfrac1K\sum_k (g_i^k + c_i)

    .. math::
        c_i \leftarrow c_i - z_i + \sum_j \pi_{ij} z_j, \qquad
        \theta_i \leftarrow \sum_j \pi_{ij}\theta_j

    A correction is by how much an agent's gradients differ from its neighbors', so that local steps
    go along an estimate of everybody's mean gradient. All corrections together are always 0. They
    begin at 0; the paper's begin at what a sum over all agents says, which is forgotten as the
    exchange goes on. With K = 1 this is ``gradient-tracking`` that adapts first.

    In the paper :math:`z_i` is the displacement of the local steps by SGD, divided by their rates.
    Here it is the mean of the directions that the optimizer was given, which is the same for SGD at
    a constant rate without weight decay, and is a gradient still for any other optimizer. The
    paper's second step size is 1.

    *Assumes* what ``cdsgd`` does, but not that shards are alike: with exact gradients and a
    constant rate SGD reaches the minimum of the mean loss, however many local steps there are;
    ``ldsgd`` does not. *Breaks when* gradients are noisy and K is small, as a correction is a
    difference of them; when the rate is not small against 1/K: a correction is K steps old; with
    adaptive optimizers, which scale what is corrected differently at every agent. An exchange is
    twice that of ``ldsgd``.

    Args:
        quiet_steps: Steps between two exchanges, K - 1 >= 0.

    References:
        Liu et al., "Decentralized Gradient Tracking with Local Steps", Optimization Methods and
        Software 2024 (K-GT).
    """

    quiet_steps: int = setting("consensus.quiet_steps", 4)
    exchanges = "steps"
    keeps = 2  # its correction, and the sum of the directions since the last exchange

    @property
    def needs(self) -> frozenset[Need]:
        """What ``cdsgd`` needs: otherwise corrections do not sum to 0."""
        return DOUBLY_STOCHASTIC

    @property
    def period(self) -> int:
        """K, the steps from one exchange to the next."""
        return self.quiet_steps + 1

    def step(self, me: StepContext) -> Talk[None]:
        """A local step along the corrected gradient; then perhaps an exchange."""
        time, gradient = me.steps, me.gradient()
        along = _sum(gradient, me.kept.get("correction", {}))
        me.kept["sum"] = _sum(along, me.kept.get("sum", {}))
        me.update(along)
        if (time + 1) % self.period:
            return
        mean = {key: value / self.period for key, value in me.kept.pop("sum").items()}
        agreed = yield from combined(me, mean, "gradient")
        change = {key: agreed[key] - value for key, value in mean.items()}
        me.kept["correction"] = _sum(change, me.kept.get("correction", {}))
        me.load((yield from combined(me, me.state())))


def _sum(a: State, b: State) -> State:
    """The sum of two states, of which the second may be empty."""
    return {key: value + b[key] for key, value in a.items()} if b else a
