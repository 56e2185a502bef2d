"""``fedavg``: federated averaging, with a server. For reference."""

from __future__ import annotations

from dataclasses import dataclass

from dimat.exchange import Talk
from dimat.methods.messages import distance
from dimat.methods.protocol import Method, RoundContext, RoundResult
from dimat.methods.rounds.server import mean_of_all


@dataclass(frozen=True)
class FedAvg(Method):
    r"""Once a round all agents take the mean of all, weighted by their numbers of images.

    .. math:: \theta_i \leftarrow \sum_j \frac{n_j}{n} \theta_j

    *Assumes* a server (agent 0, whatever the graph), all agents present, and units in one order.
    *Breaks when* agents start from different inits, as any average of units that do not
    correspond, or when shards differ much and rounds are long.

    References:
        McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
        Data", AISTATS 2017.
    """

    exchanges = "rounds"

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """The mean of all."""
        if me.topology.num_agents == 1:
            return (yield from super().merge(me))
        mean = yield from mean_of_all(me, weighted=True)
        return RoundResult(mean, disagreement=distance(me.state, mean, me.parameters))
