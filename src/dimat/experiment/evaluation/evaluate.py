"""The measurements in the rounds of one method: at every agent, and over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dimat.exchange.collectives import Collectives
from dimat.exchange.tree import Tree
from dimat.experiment.evaluation.confusion import Confusion
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
    """The measurements of this process's agents, gathered for the run folder's writer.

    Args:
        setup: Data, graph and settings that all methods of the run share.
        collectives: Gathers values from the agents of all processes.
        writer: Writer of the run folder; None but in agent 0's process.
    """

    setup: Setup
    collectives: Collectives
    writer: RunWriter | None = None

    def due(self, number: int) -> bool:
        """Whether a round is measured: every ``eval_every``-th, and the last."""
        config = self.setup.config
        return number % config.eval_every == 0 or number == config.rounds

    def agents(
        self,
        number: int,
        phase: str,
        agents: Sequence[LocalTrainer],
        measured: Sequence[Mapping[str, float | None]],
    ) -> None:
        """Evaluate the agents, and write one line of metrics, and one of classes, for each.

        Args:
            number: The round, from 0 (after pre-training).
            phase: merged or trained.
            agents: The agents of this process.
            measured: Costs of the phase at each agent, added to its line.
        """
        trees = {
            agent.index: list(evaluated(self.setup, agent, number, phase, own))
            for agent, own in zip(agents, measured, strict=True)
        }
        found = self.collectives.gather(trees)
        if self.writer:
            self.writer.metrics([line for line, _ in found])
            self.writer.classes(number, phase, [classes for _, classes in found])

    def merge(
        self,
        number: int,
        agents: Sequence[LocalTrainer],
        contexts: Sequence[RoundContext],
        results: Sequence[RoundResult],
        *,
        matches: bool,
    ) -> None:
        """Write the diagnostics of a merge, before the agents take it over.

        Args:
            number: The round, from 1.
            agents: The agents of this process.
            contexts: What each of them brought to the merge.
            results: The result of the merge at each of them.
            matches: Whether the method matches units.
        """
        trees = {me.agent: shown(me, own) for me, own in zip(contexts, results, strict=True)}
        found, topology = self.collectives.gather(trees), contexts[0].topology
        snapshot = None
        if self.writer:
            symmetry = self.setup.analysis.symmetry if matches else None
            both = [seen(tree, symmetry, self.setup.config.device) for tree in found]
            before, after = [state for state, _ in both], [own for _, own in both]
            snapshot = MergeSnapshot(topology, before, after, contexts[0].parameters, symmetry)
        barrier = self._barrier(agents, topology, snapshot)
        if self.writer and snapshot:
            self.writer.diagnostics({"round": number, **snapshot.describe(), "barrier": barrier})

    def _barrier(
        self, agents: Sequence[LocalTrainer], topology: Topology, snapshot: MergeSnapshot | None
    ) -> float | None:
        """The loss barrier, in agent 0's process; None if it is not to be measured."""
        images = self.setup.config.diagnostics.barrier_images
        if not images:
            return None
        test = self.setup.test
        talks = {a.index: loss_barrier(a, topology, snapshot, test, images) for a in agents}
        return self.collectives.run(talks)[agents[0].index]

    def training(self, number: int, agents: Sequence[LocalTrainer]) -> None:
        """Write the diagnostics of agents that exchange in steps.

        Args:
            number: The round, from 1.
            agents: The agents of this process.
        """
        states = self.collectives.gather({agent.index: agent.state() for agent in agents})
        if self.writer:
            device, names = self.setup.config.device, parameter_names(agents[0].model)
            there = [{k: v.to(device) for k, v in state.items()} for state in states]
            line = of_training(self.setup.topology, there, names)
            self.writer.diagnostics({"round": number, **line})


def merge_costs(result: RoundResult) -> dict[str, float | None]:
    """The costs of a merge, as in a line of metrics: disagreement and seconds."""
    return {
        "disagreement": result.disagreement,
        "match_s": result.report.match_s,
        "merge_s": result.report.merge_s,
    }


def evaluated(
    setup: Setup, agent: LocalTrainer, number: int, phase: str, measured: Mapping[str, float | None]
) -> tuple[dict[str, object], Tree | None]:
    """The line of metrics of one agent, which is evaluated for it, and the record of its classes.

    Args:
        setup: Data, graph and settings that all methods of the run share.
        agent: The agent.
        number: The round, from 0 (after pre-training).
        phase: merged or trained.
        measured: Costs of the phase, added to the line.

    Returns:
        The line; and the recall of every class, with the confusion of classes in the last round:
        None if there is nothing to count.
    """
    main, counts = setup.metric.name, Confusion.of(setup)
    batches = agent.shard.num_batches(agent.batch_size)
    own = {}
    with agent.averaged():
        found = agent.evaluate(*setup.test, observe=counts.add if counts else None)
        validated = agent.evaluate(*agent.shard.validation())
        if setup.owner is not None and setup.tested is not None:
            own[f"own_{main}"] = agent.evaluate(*setup.own_test)[main]
    line: dict[str, object] = {
        "round": number,
        "agent": agent.index,
        "phase": phase,
        **{f"test_{own.name}": found[own.name] for own in setup.task.metrics},
        "test_loss": found["loss"],
        f"validation_{main}": validated[main],
        **own,
        "train_loss": None,
        "disagreement": None,
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
    return line, counts.tree(whole=number == setup.config.rounds) if counts else None
