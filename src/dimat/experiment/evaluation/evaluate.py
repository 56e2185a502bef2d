"""What is measured in the rounds of one method: at every agent, and of all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dimat.exchange.collectives import Collectives
from dimat.experiment.evaluation.diagnostics import MergeSnapshot, of_training
from dimat.experiment.evaluation.loss_barrier import loss_barrier
from dimat.experiment.evaluation.merge_snapshot import seen, shown
from dimat.experiment.record.writer import RunWriter
from dimat.experiment.setup import Setup
from dimat.methods import RoundContext, RoundResult
from dimat.topology import Topology
from dimat.training.trainer import LocalTrainer, parameter_names


@dataclass
class Measure:
    """Measures this process's agents, and brings what it finds to the run folder's writer.

    Args:
        setup: What all methods have in common.
        collectives: All agents.
        writer: Where lines are written, in agent 0's process.
    """

    setup: Setup
    collectives: Collectives
    writer: RunWriter | None = None

    def due(self, number: int) -> bool:
        """Whether a round is measured."""
        config = self.setup.config
        return number % config.eval_every == 0 or number == config.rounds

    def agents(
        self,
        number: int,
        phase: str,
        agents: Sequence[LocalTrainer],
        measured: Sequence[Mapping[str, float | None]],
    ) -> None:
        """Evaluate agents, and write one line of metrics each.

        Args:
            number: The round.
            phase: merged or trained.
            agents: Of this process.
            measured: What is known of each beside.
        """
        lines = {
            agent.index: line_of(self.setup, agent, number, phase, own)
            for agent, own in zip(agents, measured, strict=True)
        }
        found = self.collectives.gather(lines)
        if self.writer:
            self.writer.metrics(found)

    def merge(
        self,
        number: int,
        agents: Sequence[LocalTrainer],
        members: Sequence[RoundContext],
        merged: Sequence[RoundResult],
        *,
        matches: bool,
    ) -> None:
        """What an observer sees of a merge, before the agents take it over."""
        trees = {me.agent: shown(me, own) for me, own in zip(members, merged, strict=True)}
        found, topology = self.collectives.gather(trees), members[0].topology
        sight = None
        if self.writer:
            symmetry = self.setup.analysis.symmetry if matches else None
            both = [seen(tree, symmetry, self.setup.config.device) for tree in found]
            states, results = [state for state, _ in both], [own for _, own in both]
            sight = MergeSnapshot(topology, states, results, members[0].parameters, symmetry)
        barrier = self._barrier(agents, topology, sight)
        if self.writer and sight:
            self.writer.diagnostics({"round": number, **sight.describe(), "barrier": barrier})

    def _barrier(
        self, agents: Sequence[LocalTrainer], topology: Topology, sight: MergeSnapshot | None
    ) -> float | None:
        """The loss barrier, if it is asked for."""
        images = self.setup.config.diagnostics.barrier_images
        if not images:
            return None
        test = self.setup.test
        talks = {a.index: loss_barrier(a, topology, sight, test, images) for a in agents}
        return self.collectives.run(talks)[agents[0].index]

    def training(self, number: int, agents: Sequence[LocalTrainer]) -> None:
        """What an observer sees of agents that exchange while they train."""
        states = self.collectives.gather({agent.index: agent.state() for agent in agents})
        if self.writer:
            device, names = self.setup.config.device, parameter_names(agents[0].model)
            there = [{k: v.to(device) for k, v in state.items()} for state in states]
            line = of_training(self.setup.topology, there, names)
            self.writer.diagnostics({"round": number, **line})


def merge_costs(result: RoundResult) -> dict[str, float | None]:
    """What a line of metrics says of a merge."""
    return {
        "disagreement": result.disagreement,
        "drift": result.report.drift,
        "match_s": result.report.match_s,
        "merge_s": result.report.merge_s,
    }


def line_of(
    setup: Setup, agent: LocalTrainer, number: int, phase: str, measured: Mapping[str, float | None]
) -> dict[str, object]:
    """Evaluate an agent: one line of metrics.

    Args:
        setup: What all methods have in common.
        agent: Whom.
        number: The round.
        phase: merged or trained.
        measured: What is known of it beside.
    """
    accuracy, loss = agent.evaluate(*setup.test)
    validation, _ = agent.evaluate(*agent.shard.validation())
    batches = agent.shard.num_batches(agent.batch_size)
    return {
        "round": number,
        "agent": agent.index,
        "phase": phase,
        "test_accuracy": accuracy,
        "test_loss": loss,
        "validation_accuracy": validation,
        "train_loss": None,
        "disagreement": None,
        "drift": None,
        "sent_bytes": agent.traffic.sent_bytes,
        "received_bytes": agent.traffic.received_bytes,
        "match_s": 0.0,
        "merge_s": 0.0,
        "train_s": 0.0,
        "steps": setup.pretrain_steps(agent.index) + agent.steps,
        "epochs": agent.epochs + (agent.steps % batches) / batches,
        "busy_s": agent.traffic.busy_s,
        **measured,
    }
