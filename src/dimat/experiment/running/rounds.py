"""The rounds of a method: exchange, match, merge, recalibrate, evaluate, train, evaluate."""

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
from dimat.experiment.running.time_limit import ENDLESS, TimeLimit, now
from dimat.experiment.running.vectorized import train_all, trains_at_once
from dimat.experiment.setup import Setup
from dimat.methods import RoundContext, RoundResult
from dimat.state import State
from dimat.training.round import merge_round
from dimat.training.snapshot import Snapshot
from dimat.training.trainer import LocalTrainer

Value = TypeVar("Value")
_PAUSE_S = 10.0  # of wall time between checkpoints, which take a sixth of a round of milliseconds
_PAUSE = 20  # or so many times what the last one took, if that is more: a twentieth of the time


@dataclass
class Rounds:
    """The rounds of one method at the agents of this process, from pre-training to the last round.

    Args:
        setup: Data, graph and settings that all methods of the run share.
        name: Registry name of the method.
        collectives: Gathers and broadcasts values between the agents of all processes.
        progress: Receives the progress of the rounds.
        writer: Writer of the method's run folder; None but in agent 0's process.
        time_limit: Wall time of the run, by the clock of agent 0's process.
        agents: The agents of this process, by number.
        states: States of these agents whose accuracies are reported for the last round: after its
            merge, or after its training if there was none; empty before the last round.
    """

    setup: Setup
    name: str
    collectives: Collectives
    progress: Progress
    writer: RunWriter | None
    time_limit: TimeLimit = ENDLESS
    agents: list[LocalTrainer] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.method = make_method(self.setup.config, self.name)
        self.measure = Measure(self.setup, self.collectives, self.writer)
        self.together = self.method.exchanges == "steps"
        self._kept_at, self._pause_s = now(), _PAUSE_S

    def run(self, pretrained: MutableMapping[int, Pretrained]) -> MethodResult | None:
        """Run all rounds, or those after the last checkpoint.

        Args:
            pretrained: The agents of this process after pre-training, by number; each is removed
                when it is used, since together they take as much memory as the agents.

        Returns:
            The results of the method, in agent 0's process; None in the others.

        Raises:
            TrainingError: If a loss or a state of an agent of this process is not finite.
            Stopped: If time is up, after a round with a checkpoint.
        """
        rounds = self.setup.config.rounds
        done = self._set_out(pretrained)
        self.progress.stage(self.name, rounds * len(self.agents))
        self.progress.advance(done * len(self.agents))
        for number in range(done + 1, rounds + 1):
            measured = self.measure.due(number)
            met = self.method.exchanges == "rounds" and self._merge(number, measured=measured)
            self._train(number, measured=measured)
            if number == rounds and not met:
                self.states = [agent.evaluated_state() for agent in self.agents]
            if self.writer:
                self.writer.news(number)
            self._keep_or_stop(number)
        states = self.collectives.gather(self._by_agent(self.states))
        return self.writer.close(states) if self.writer else None

    # --- a round -----------------------------------------------------------------------------

    def _merge(self, number: int, *, measured: bool) -> bool:
        """Exchange, match, merge, recalibrate, evaluate.

        Returns:
            Whether any agents were mixed; always False in a round that is not measured.
        """
        met = False

        def observe(contexts: Sequence[RoundContext], results: Sequence[RoundResult]) -> None:
            nonlocal met
            met = self.collectives.any(own.mixed for own in results)
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
            self.states = [agent.evaluated_state() for agent in self.agents]
        return met

    def _train(self, number: int, *, measured: bool) -> None:
        """Train locally, or in steps with exchange and then recalibrate; evaluate."""
        before = [agent.traffic.busy_s for agent in self.agents]
        try:
            self._train_all()
            losses = [agent.loss() for agent in self.agents]
        except TrainingError as error:
            raise TrainingError(f"{self.name}, round {number}, {error}") from error
        spent = [a.traffic.busy_s - b for a, b in zip(self.agents, before, strict=True)]
        costs = [_training_costs(loss, s) for loss, s in zip(losses, spent, strict=True)]
        mixed = self.together and self.collectives.size > 1
        if mixed:
            for agent, cost in zip(self.agents, costs, strict=True):
                cost["merge_s"] = agent.recalibrate(number)
        if not measured:
            return
        if mixed:
            self.measure.training(number, self.agents)
        self.measure.agents(number, "trained", self.agents, costs)

    def _train_all(self) -> None:
        """Take the steps of a round with all agents: in turns, or in stacks if none exchanges."""
        for agent in self.agents:
            agent.begin_training()
        if not trains_at_once(self.setup, self.method):
            self._exchange([self._steps(agent) for agent in self.agents])
            return
        steps = [self.setup.round_steps(agent.index) for agent in self.agents]
        train_all(self.setup, self.agents, steps, lambda own: self.progress.advance(len(own)))

    def _steps(self, agent: LocalTrainer) -> Talk[None]:
        """Take one agent's training steps of a round."""
        for _ in range(self.setup.round_steps(agent.index, together=self.together)):
            if self.together:  # other methods need no graph, and drawing a varying one takes time
                agent.topology = self.setup.topology.at(agent.steps)
            yield from self.method.step(agent)
            agent.note_step()
        self.progress.advance()

    def _exchange(self, talks: Sequence[Talk[Value]]) -> list[Value]:
        """Run the talks of this process's agents; returns their results in the same order."""
        precision = self.setup.config.exchange.precision
        own = self._by_agent([in_precision(talk, precision) for talk in talks])
        traffic = {agent.index: agent.traffic for agent in self.agents}
        found = self.collectives.transport.run(own, traffic)
        return [found[agent.index] for agent in self.agents]

    # --- beginning, and going on ----------------------------------------------------------------

    def _set_out(self, pretrained: MutableMapping[int, Pretrained]) -> int:
        """Make the agents, from pre-training or a checkpoint; returns the last round done."""
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
            costs.append(_training_costs(own.train_loss, own.snapshot.counters["busy_s"]))
        self.measure.agents(0, "trained", self.agents, costs)
        if self.setup.config.rounds == 0:
            self.states = [agent.evaluated_state() for agent in self.agents]
        return 0

    def _go_on(self) -> int | None:
        """Restore this process's agents from the last checkpoint, which agent 0's process reads.

        Returns:
            The last round done; None if there is no checkpoint.
        """
        kept = self.writer.open() if self.writer else None
        number = self.collectives.tell(kept and kept.number)
        if number is None:
            return None
        found = self.collectives.scatter(dict(enumerate(kept.agents)) if kept else {})
        for agent in self.agents:
            Snapshot.of_tree(found[agent.index]).restore(agent)
        return int(number)

    def _keep_or_stop(self, number: int) -> None:
        """Write a checkpoint if it is due, and stop if time is up; the last round needs neither."""
        config = self.setup.config
        every = config.checkpoint.every
        if number == config.rounds:  # the summary follows
            return
        stop, due = False, bool(every and number % every == 0)
        if self.time_limit.limits or every is None:  # by one clock, that of agent 0's process
            waited = every is None and now() - self._kept_at >= self._pause_s
            stop, waited = self.collectives.tell([self.time_limit.is_up, waited])
            due |= waited
        if stop or due:
            began = now()
            self._keep(number)
            self._kept_at = now()
            self._pause_s = max(_PAUSE_S, _PAUSE * (self._kept_at - began))
        if stop:
            raise Stopped(f"{self.name}, round {number} of {config.rounds}")

    def _keep(self, number: int) -> None:
        """Write a checkpoint of all agents."""
        snapshots = [Snapshot.of(agent).tree() for agent in self.agents]
        found = self.collectives.gather(self._by_agent(snapshots))
        if self.writer:
            self.writer.keep(number, found)

    def _by_agent(self, values: Sequence[Value]) -> dict[int, Value]:
        return {agent.index: own for agent, own in zip(self.agents, values, strict=True)}


def _training_costs(loss: float, spent_s: float) -> dict[str, float | None]:
    return {"train_loss": loss, "train_s": spent_s}
