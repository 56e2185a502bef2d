"""The algorithm, round by round: exchange, match, merge, recalibrate, evaluate, train."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dimat.errors import Stopped, TrainingError
from dimat.exchange import Talk
from dimat.exchange.collectives import Collectives
from dimat.exchange.precision import in_precision
from dimat.experiment.config.methods import make_method
from dimat.experiment.evaluation.evaluate import Measure, merge_costs
from dimat.experiment.progress import Progress
from dimat.experiment.record.results import MethodResult
from dimat.experiment.record.writer import RunWriter
from dimat.experiment.running.pretrain import Pretrained
from dimat.experiment.running.time_limit import ENDLESS, TimeLimit
from dimat.experiment.running.vectorized import train_all, trains_at_once
from dimat.experiment.setup import Setup
from dimat.methods import RoundContext, RoundResult
from dimat.state import State
from dimat.training.round import merge_round
from dimat.training.snapshot import Snapshot
from dimat.training.trainer import LocalTrainer

Value = TypeVar("Value")


@dataclass
class Rounds:
    """One method, from pre-trained agents to the last round, at the agents of this process.

    Args:
        setup: What all methods have in common.
        name: Of the method.
        collectives: All agents.
        observer: Told how it goes.
        writer: Where all that is measured goes, in agent 0's process.
        time_limit: How long it may take; by the clock of agent 0's process.
        agents: Of this process, in order.
        states: Theirs that the accuracies of the last round are of; none before that round.
    """

    setup: Setup
    name: str
    collectives: Collectives
    observer: Progress
    writer: RunWriter | None
    time_limit: TimeLimit = ENDLESS
    agents: list[LocalTrainer] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.method = make_method(self.setup.config, self.name)
        self.measure = Measure(self.setup, self.collectives, self.writer)
        self.together = self.method.exchanges == "steps"

    def run(self, pretrained: MutableMapping[int, Pretrained]) -> MethodResult | None:
        """All rounds, or those that are left; the writer writes metrics, states and summary.

        Args:
            pretrained: The agents of this process, after pre-training; taken out one by one, since
                of all together they are as large as the agents.

        Returns:
            What came of it, in agent 0's process.

        Raises:
            TrainingError: If a loss or a state of an agent of this process is not finite.
            Stopped: If time is up, after a round that was kept.
        """
        rounds = self.setup.config.rounds
        done = self._set_out(pretrained)
        self.observer.stage(self.name, rounds * len(self.agents))
        self.observer.advance(done * len(self.agents))
        for number in range(done + 1, rounds + 1):
            measured = self.measure.due(number)
            met = self.method.exchanges == "rounds" and self._merge(number, measured=measured)
            self._train(number, measured=measured)
            if number == rounds and not met:
                self.states = [agent.state() for agent in self.agents]
            if self.writer:
                self.writer.news(number)
            self._keep_or_stop(number)
        states = self.collectives.gather(self._by_agent(self.states))
        return self.writer.close(states) if self.writer else None

    # --- a round -----------------------------------------------------------------------------

    def _merge(self, number: int, *, measured: bool) -> bool:
        """Exchange, match, merge; recalibrate; evaluate. Whether any met, if it is measured."""
        met = False

        def observe(contexts: Sequence[RoundContext], results: Sequence[RoundResult]) -> None:
            nonlocal met
            met = self.collectives.any(own.disagreement is not None for own in results)
            if met:
                matches = self.method.matches
                self.measure.merge(number, self.agents, contexts, results, matches=matches)

        results = merge_round(
            self.agents,
            self.method,
            self.collectives.transport,
            number,
            precision=self.setup.config.exchange.precision,
            where=f"{self.name}, round {number}, in the merge",
            observe=observe if measured else None,
        )
        if met:
            self.measure.agents(number, "merged", self.agents, [merge_costs(x) for x in results])
        if met and number == self.setup.config.rounds:
            self.states = [agent.state() for agent in self.agents]
        return met

    def _train(self, number: int, *, measured: bool) -> None:
        """Local steps, or steps with exchange and then recalibration; evaluate."""
        before = [agent.traffic.busy_s for agent in self.agents]
        try:
            self._learn_all()
            losses = [agent.loss() for agent in self.agents]
        except TrainingError as error:
            raise TrainingError(f"{self.name}, round {number}, {error}") from error
        spent = [a.traffic.busy_s - b for a, b in zip(self.agents, before, strict=True)]
        costs = [_learned(loss, s) for loss, s in zip(losses, spent, strict=True)]
        mixed = self.together and self.collectives.size > 1
        if mixed:
            for agent, cost in zip(self.agents, costs, strict=True):
                cost["merge_s"] = agent.recalibrate(number)
        if not measured:
            return
        if mixed:
            self.measure.training(number, self.agents)
        self.measure.agents(number, "trained", self.agents, costs)

    def _learn_all(self) -> None:
        """All steps of a round: in turns, or several agents at once where nobody talks."""
        if not trains_at_once(self.setup, self.method):
            self._exchange([self._learn(agent) for agent in self.agents])
            return
        steps = [self.setup.round_steps(agent.index) for agent in self.agents]
        train_all(self.setup, self.agents, steps, lambda own: self.observer.advance(len(own)))

    def _learn(self, agent: LocalTrainer) -> Talk[None]:
        """One agent's steps of a round."""
        for _ in range(self.setup.round_steps(agent.index, together=self.together)):
            if self.together:  # else nobody asks, and a graph that varies is drawn for each step
                agent.topology = self.setup.topology.at(agent.steps)
            yield from self.method.step(agent)
        agent.optimizer.zero_grad(set_to_none=True)  # a model's memory, until the next step
        self.observer.advance()

    def _exchange(self, talks: Sequence[Talk[Value]]) -> list[Value]:
        """What the talks of a method come to, in the order of this process's agents."""
        precision = self.setup.config.exchange.precision
        own = self._by_agent([in_precision(talk, precision) for talk in talks])
        traffic = {agent.index: agent.traffic for agent in self.agents}
        found = self.collectives.transport.run(own, traffic)
        return [found[agent.index] for agent in self.agents]

    # --- beginning, and going on ----------------------------------------------------------------

    def _set_out(self, pretrained: MutableMapping[int, Pretrained]) -> int:
        """Agents as they are after pre-training, or after the last round that was kept: which."""
        setup, together, name = self.setup, self.together, self.name
        here = self.collectives.transport.agents
        self.agents = [
            setup.new_agent(i, pretraining=False, together=together, method=name) for i in here
        ]
        done = self._go_on()
        if done is not None:
            pretrained.clear()
            return done
        costs = []
        for agent in self.agents:
            own = pretrained.pop(agent.index)
            own.snapshot.restore(agent, new_shard=True)
            if together:
                self.setup.set_out(agent)
            costs.append(_learned(own.train_loss, own.snapshot.counters["busy_s"]))
        self.measure.agents(0, "trained", self.agents, costs)
        if self.setup.config.rounds == 0:
            self.states = [agent.state() for agent in self.agents]
        return 0

    def _go_on(self) -> int | None:
        """Restore the agents of this process from what agent 0's has kept, if it has."""
        kept = self.writer.open() if self.writer else None
        number = self.collectives.tell(kept and kept.number)
        if number is None:
            return None
        found = self.collectives.scatter(dict(enumerate(kept.agents)) if kept else {})
        for agent in self.agents:
            Snapshot.of_tree(found[agent.index]).restore(agent)
        return int(number)

    def _keep_or_stop(self, number: int) -> None:
        """Keep what a stopped run goes on from, if it is time to; the last round is not kept."""
        config = self.setup.config
        every = config.checkpoint.every
        if number == config.rounds:  # its summary follows
            return
        stop = self.time_limit.limits and self.collectives.tell(self.time_limit.is_up)
        if stop or (every and number % every == 0):
            self._keep(number)
        if stop:
            raise Stopped(f"{self.name}, round {number} of {config.rounds}")

    def _keep(self, number: int) -> None:
        snapshots = [Snapshot.of(agent).tree() for agent in self.agents]
        found = self.collectives.gather(self._by_agent(snapshots))
        if self.writer:
            self.writer.keep(number, found)

    def _by_agent(self, values: Sequence[Value]) -> dict[int, Value]:
        return {agent.index: own for agent, own in zip(self.agents, values, strict=True)}


def _learned(loss: float, spent_s: float) -> dict[str, float | None]:
    return {"train_loss": loss, "train_s": spent_s}
