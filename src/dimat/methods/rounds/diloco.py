"""``diloco``: an outer Nesterov step along the mean of what local training changed."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.exchange import Talk
from dimat.methods.messages import distance
from dimat.methods.protocol import Method, RoundContext, RoundResult, setting
from dimat.methods.rounds.server import mean_of_all


@dataclass(frozen=True)
class DiLoCo(Method):
    r"""All agents set out from one outer state, and it moves by momentum.

    .. math::
        \delta = \theta - \tfrac1N\sum_j\theta_j, \qquad
        v \leftarrow \mu v + \delta, \qquad
        \theta \leftarrow \theta - \eta\,(\delta + \mu v), \qquad \theta_i \leftarrow \theta

    The first outer state is the mean of the agents as they come from pre-training. Running
    statistics are averaged.

    *Assumes* an all-reduce over all agents (agent 0 stands for it, whatever the graph), one shared
    init, and the same number of local steps everywhere. *Breaks when* agents start from different
    inits: then the first outer state is an average of units that do not correspond; or when the
    outer learning rate is too high for a few long rounds.

    Args:
        lr: Outer learning rate :math:`\eta` > 0.
        momentum: Outer momentum :math:`\mu`, in [0, 1).

    References:
        Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023.
    """

    lr: float = setting("outer.lr", 0.7)
    momentum: float = setting("outer.momentum", 0.9)
    exchanges = "rounds"
    keeps = 2

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """The mean of all, and the outer step."""
        mean = yield from mean_of_all(me, weighted=False)
        alone = me.topology.num_agents == 1
        apart = None if alone else distance(me.state, mean, me.parameters)
        if not me.kept:
            outer = {key: mean[key] for key in me.parameters}
            velocity = {key: value.new_zeros(value.shape) for key, value in outer.items()}
            return RoundResult(
                mean, disagreement=apart, kept={"outer": outer, "velocity": velocity}
            )
        delta = {key: value - mean[key] for key, value in me.kept["outer"].items()}
        velocity = {k: self.momentum * v + delta[k] for k, v in me.kept["velocity"].items()}
        outer = {
            key: value - self.lr * (delta[key] + self.momentum * velocity[key])
            for key, value in me.kept["outer"].items()
        }
        kept = {"outer": outer, "velocity": velocity}
        return RoundResult({**mean, **outer}, disagreement=apart, kept=kept)
