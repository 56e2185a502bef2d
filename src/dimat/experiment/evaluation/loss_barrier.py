"""The loss barrier between neighbors: the rise of the loss halfway between their networks."""

from __future__ import annotations

import math
import statistics

from dimat.data import Rows
from dimat.exchange import Step, Talk
from dimat.exchange.collectives import OBSERVER, gather
from dimat.exchange.tree import as_message, tree_of
from dimat.experiment.evaluation.diagnostics import MergeSnapshot
from dimat.merging import mix, recalibrate
from dimat.state import State
from dimat.topology import Topology
from dimat.training.trainer import RECALIBRATE, LocalTrainer

Images = tuple[Rows, Rows]


def loss_barrier(
    agent: LocalTrainer,
    topology: Topology,
    snapshot: MergeSnapshot | None,
    test: Images,
    images: int,
) -> Talk[float]:
    """The loss barrier: test loss halfway between aligned neighbors minus the mean of their own.

    A talk of every agent. Agent 0 has the snapshot of the merge, and sends the network halfway to
    the lower agent of each edge, which recomputes BatchNorm statistics on images of its own and
    measures the loss. One network is sent at a time. The agents' models are used and restored.

    Args:
        agent: The agent, before it takes the result of the merge over.
        topology: Graph and mixing matrix of the round.
        snapshot: The merge at all agents, for agent 0; None for the others.
        test: Normalized test images and their labels.
        images: Test images, and calibration images, to use at most, >= 1.

    Returns:
        For agent 0 the mean over all edges, 0 on a graph without edges; neighbors whose units are
        in different orders are left out, NaN if all are. NaN for the other agents.
    """
    seen = test[0][:images], test[1][:images]
    loss = as_message(agent.evaluate(*seen)["loss"])
    own = [tree_of(m) for m in (yield from gather(agent.index, topology.num_agents, loss))]
    barriers = []
    for i, j in topology.graph.edges:
        halfway: State = {}
        if snapshot is not None and snapshot.together(i, j):
            halfway = mix(list(snapshot.pair(i, j)), [0.5, 0.5])
        found = yield from _measured(agent, i, halfway, seen, images)
        if own and not math.isnan(found):
            barriers.append(found - (own[i] + own[j]) / 2)
    if agent.index != OBSERVER:
        return float("nan")
    if not barriers and topology.graph.edges:
        return float("nan")
    return statistics.fmean(barriers) if barriers else 0.0


def _measured(agent: LocalTrainer, at: int, state: State, test: Images, images: int) -> Talk[float]:
    """For agent 0 the loss of its network, measured by agent ``at``; NaN for the others."""
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
    """Test loss of a network with running statistics of an agent's images; NaN without network."""
    if not state:
        return float("nan")
    kept = agent.state()
    agent.load(state)
    try:
        with agent.autocast():  # the arithmetic of its evaluation
            recalibrate(agent.model, agent.calibration(RECALIBRATE, 0, images))
        return agent.evaluate(*test)["loss"]
    finally:
        agent.load(kept)
