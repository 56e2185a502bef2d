"""The loss barrier between neighbors: how much worse the network halfway between them is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from torch import Tensor

from dimat.agent import RECALIBRATE, Agent
from dimat.experiment.diagnostics import Sight
from dimat.merging import mix, recalibrate
from dimat.state import State


def loss_barrier(
    agents: Sequence[Agent], sight: Sight, test: tuple[Tensor, Tensor], images: int
) -> float:
    """Test loss halfway between aligned neighbors, above the mean of their own: over all edges.

    BatchNorm statistics halfway are recomputed on images of the lower agent. The agents' models are
    used and put back.

    Args:
        agents: Before they take over what the merge gave them.
        sight: The merge.
        test: Normalized images and labels.
        images: How many of them, >= 1.
    """
    x, y = test[0][:images], test[1][:images]
    own = [agent.evaluate(x, y)[1] for agent in agents]
    barriers = []
    for i, j in sight.topology.graph.edges:
        agent = agents[i]
        kept: State = agent.state()
        agent.load(mix(list(sight.pair(i, j)), [0.5, 0.5]))
        recalibrate(agent.model, agent.calibration(RECALIBRATE, 0, images))
        barriers.append(agent.evaluate(x, y)[1] - (own[i] + own[j]) / 2)
        agent.load(kept)
    return statistics.fmean(barriers) if barriers else 0.0
