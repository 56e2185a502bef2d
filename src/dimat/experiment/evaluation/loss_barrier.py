"""The loss barrier between neighbors: how much worse the network halfway between them is."""

from __future__ import annotations

import math
import statistics

from torch import Tensor

from dimat.exchange import Step, Talk
from dimat.exchange.collectives import OBSERVER, gather
from dimat.exchange.tree import as_message, tree_of
from dimat.experiment.evaluation.diagnostics import MergeSnapshot
from dimat.merging import mix, recalibrate
from dimat.state import State
from dimat.topology import Topology
from dimat.training.trainer import RECALIBRATE, LocalTrainer

Images = tuple[Tensor, Tensor]


def loss_barrier(
    agent: LocalTrainer, topology: Topology, sight: MergeSnapshot | None, test: Images, images: int
) -> Talk[float]:
    """Test loss halfway between aligned neighbors, above the mean of their own: over all edges.

    A talk of every agent. Agent 0 sees the merge, and has the lower agent of an edge measure the
    network halfway: BatchNorm statistics are recomputed on images of that agent, which stay there.
    One network is under way at a time. The agents' models are used and put back.

    Args:
        agent: Before it takes over what the merge gave it.
        topology: Of the round.
        sight: The merge, if it is agent 0.
        test: Normalized images and labels.
        images: How many of them, >= 1.

    Returns:
        For agent 0 the mean over all edges, 0 on a graph without edges; neighbors whose units are
        in different orders are left out, NaN if all are; NaN for the others.
    """
    seen = test[0][:images], test[1][:images]
    loss = as_message(agent.evaluate(*seen)[1])
    own = [tree_of(m) for m in (yield from gather(agent.index, topology.num_agents, loss))]
    barriers = []
    for i, j in topology.graph.edges:
        halfway: State = {}
        if sight is not None and sight.together(i, j):
            halfway = mix(list(sight.pair(i, j)), [0.5, 0.5])
        found = yield from _measured(agent, i, halfway, seen, images)
        if own and not math.isnan(found):
            barriers.append(found - (own[i] + own[j]) / 2)
    if agent.index != OBSERVER:
        return float("nan")
    if not barriers and topology.graph.edges:
        return float("nan")
    return statistics.fmean(barriers) if barriers else 0.0


def _measured(agent: LocalTrainer, at: int, state: State, test: Images, images: int) -> Talk[float]:
    """The loss of a network that agent 0 has, measured by the agent ``at``; NaN for the others."""
    if agent.index == at == OBSERVER:
        return _loss(agent, state, test, images)
    if agent.index == OBSERVER:
        yield Step({at: state})
        inbox = yield Step(hear=[at])
        return float(tree_of(inbox[at]))
    if agent.index == at:
        inbox = yield Step(hear=[OBSERVER])
        yield Step({OBSERVER: as_message(_loss(agent, dict(inbox[OBSERVER]), test, images))})
    return float("nan")


def _loss(agent: LocalTrainer, state: State, test: Images, images: int) -> float:
    """What a network would lose at an agent, with running statistics of its images; NaN if none."""
    if not state:
        return float("nan")
    kept = agent.state()
    agent.load(state)
    try:
        with agent.autocast():  # as it is evaluated
            recalibrate(agent.model, agent.calibration(RECALIBRATE, 0, images))
        return agent.evaluate(*test)[1]
    finally:
        agent.load(kept)
