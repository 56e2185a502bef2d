"""What is measured in the rounds of one method, and who is told."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dimat.agent import Agent
from dimat.experiment.barrier import loss_barrier
from dimat.experiment.callbacks import Callback
from dimat.experiment.diagnostics import Sight, of_training
from dimat.experiment.display import Observer
from dimat.experiment.record import Line, RunFolder
from dimat.experiment.setup import Setup, parameter_names
from dimat.experiment.summary import select
from dimat.methods import Member, Merged


@dataclass
class Measure:
    """Writes metrics and diagnostics, and tells observer and callbacks.

    Args:
        setup: What all methods have in common.
        method: Name of the method.
        folder: Where lines are written.
        observer: Told how it goes.
        callbacks: Told every line.
        history: All lines of metrics so far.
    """

    setup: Setup
    method: str
    folder: RunFolder
    observer: Observer
    callbacks: Sequence[Callback] = ()
    history: list[Line] = field(default_factory=list)

    def due(self, number: int) -> bool:
        """Whether a round is measured."""
        config = self.setup.config
        return number % config.eval_every == 0 or number == config.rounds

    def met(self, number: int) -> bool:
        """Whether a round has begun with a merge that was measured."""
        return bool(select(self.history, number, "merged"))

    def agent(self, agent: Agent, number: int, phase: str, **measured: float | None) -> None:
        """Evaluate an agent, and write one line of metrics."""
        accuracy, loss = agent.evaluate(*self.setup.test)
        validation, _ = agent.evaluate(*agent.shard.validation())
        batches = agent.shard.num_batches(agent.batch_size)
        line = self.folder.append(
            {
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
                "steps": self.setup.pretrain_steps(agent.index) + agent.steps,
                "epochs": agent.epochs + (agent.steps % batches) / batches,
                "busy_s": agent.traffic.busy_s,
                **measured,
            }
        )
        self.history.append(line)
        for callback in self.callbacks:
            callback.measured(self.method, line)

    def merge(
        self,
        number: int,
        agents: Sequence[Agent],
        members: Sequence[Member],
        merged: Sequence[Merged],
        *,
        matches: bool,
    ) -> None:
        """What an observer sees of a merge, before the agents take it over."""
        symmetry = self.setup.analysis.symmetry if matches else None
        states, names = [me.state for me in members], members[0].parameters
        sight = Sight(members[0].topology, states, merged, names, symmetry)
        images = self.setup.config.diagnostics.barrier_images
        barrier = loss_barrier(agents, sight, self.setup.test, images) if images else None
        self._diagnostics({"round": number, **sight.describe(), "barrier": barrier})

    def training(self, number: int, agents: Sequence[Agent]) -> None:
        """What an observer sees of agents that exchange while they train."""
        states, names = [agent.state() for agent in agents], parameter_names(agents[0].model)
        self._diagnostics({"round": number, **of_training(self.setup.topology, states, names)})

    def _diagnostics(self, line: Mapping[str, object]) -> None:
        read = self.folder.append(line, "diagnostics")
        for callback in self.callbacks:
            callback.measured(self.method, read)

    def tell(self, number: int) -> None:
        """One line of news on the round, if it was measured."""
        parts = []
        for phase in ("merged", "trained"):
            found = [x["test_accuracy"] for x in select(self.history, number, phase)]
            if found:
                parts.append(f"{phase} {100 * statistics.fmean(found):5.1f} %")
        if parts:
            self.observer.note(f"{self.method:6s} round {number:3d}  {'  '.join(parts)}")
