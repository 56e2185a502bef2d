"""The algorithm, round by round: exchange, match, merge, recalibrate, evaluate, train."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dimat.agent import MATCH, RECALIBRATE, Agent
from dimat.errors import TrainingError
from dimat.exchange.in_process import run_all
from dimat.experiment.config import RunConfig
from dimat.experiment.display import Observer
from dimat.experiment.record import RunFolder
from dimat.experiment.result import AgentResult, MethodResult
from dimat.experiment.setup import Setup, Snapshot, parameter_names, resume
from dimat.experiment.summary import Line, select, summarize
from dimat.merging import permute_optimizer, recalibrate, reset_optimizer
from dimat.merging.optimizer import load_memory, memory_of
from dimat.methods import METHODS, Member, Merged, Settings


@dataclass
class Rounds:
    """One method, from pre-trained agents to the last round.

    Args:
        setup: What all methods have in common.
        method: Name of the method.
        folder: Where its metrics go.
        observer: Told how it goes.
    """

    setup: Setup
    method: str
    folder: RunFolder
    observer: Observer

    def run(self, snapshots: Sequence[Snapshot]) -> MethodResult:
        """All rounds; writes metrics, states and summary."""
        started = time.perf_counter()
        config = self.setup.config
        resumed = [resume(self.setup, i, s) for i, s in enumerate(snapshots)]
        agents = [agent for agent, _ in resumed]
        self.schedules = [schedule for _, schedule in resumed]
        method = METHODS[self.method](method_settings(config))
        history = [
            self._record(agent, 0, "trained", train_loss=s.train_loss, train_s=s.train_s)
            for agent, s in zip(agents, snapshots, strict=True)
        ]
        states = [agent.state() for agent in agents]
        self.observer.stage(self.method, config.rounds * config.agents)
        for number in range(1, config.rounds + 1):
            merged = run_all(
                [method.merge(self._member(agent, number)) for agent in agents],
                [agent.traffic for agent in agents],
            )
            measured = self._measured(number)
            for agent, result in zip(agents, merged, strict=True):
                history += self._take_over(agent, result, number, measured=measured)
            if measured and self._merges:
                states = [agent.state() for agent in agents]
            for agent in agents:
                history += self._train(agent, number, measured=measured)
                self.observer.advance()
            if measured and not self._merges:
                states = [agent.state() for agent in agents]
            self._tell(number, history)
        for agent, state in zip(agents, states, strict=True):
            self.folder.write_state(agent.index, state)
        wall_s = time.perf_counter() - started
        summary = summarize(config, self.method, self._phase(), history, wall_s)
        self.folder.write_summary(summary)
        return MethodResult(self.method, self._results(history), summary)

    @property
    def _merges(self) -> bool:
        """Whether there is anything to see after a merge."""
        return self.method != "local"

    @property
    def _mixes_memory(self) -> bool:
        return self.setup.config.optimizer.on_merge == "mix" and self._merges

    def _measured(self, number: int) -> bool:
        config = self.setup.config
        return number % config.eval_every == 0 or number == config.rounds

    def _member(self, agent: Agent, number: int) -> Member:
        images = self.setup.config.matching.images
        return Member(
            agent.index,
            number,
            agent.state(),
            self.setup.topology,
            parameter_names(agent.model),
            lambda: self.setup.analysis,
            lambda: self._calibration(agent, MATCH, number, images),
            agent.gauge,
            memory_of(agent.optimizer, agent.model) if self._mixes_memory else {},
        )

    def _calibration(self, agent: Agent, purpose: int, number: int, images: int) -> list[Tensor]:
        return list(agent.calibration(purpose, number, images))

    def _take_over(
        self, agent: Agent, result: Merged, number: int, *, measured: bool
    ) -> list[Line]:
        """Load the merged state, carry the optimizer along, recalibrate, evaluate."""
        recalibration = self.setup.config.recalibration
        start = time.perf_counter()
        agent.load(result.state)
        agent.gauge = result.gauge or agent.gauge
        self._carry_optimizer(agent, result)
        if self.method in recalibration.methods and self._merges and not result.calibrated:
            images = self._calibration(agent, RECALIBRATE, number, recalibration.images)
            recalibrate(agent.model, images)
        merge_s = result.merge_s + time.perf_counter() - start
        if not (measured and self._merges):
            return []
        return [
            self._record(
                agent,
                number,
                "merged",
                disagreement=result.disagreement,
                drift=result.drift,
                match_s=result.match_s,
                merge_s=merge_s,
            )
        ]

    def _carry_optimizer(self, agent: Agent, result: Merged) -> None:
        """Mixed, moved as the agent's units are, or forgotten."""
        if self._merges and self.setup.config.optimizer.on_merge == "reset":
            reset_optimizer(agent.optimizer)
        elif result.memory is not None:
            load_memory(agent.optimizer, agent.model, result.memory)
        elif result.permutation is not None:
            symmetry, p = self.setup.analysis.symmetry, result.permutation
            permute_optimizer(agent.optimizer, agent.model, lambda e: symmetry.apply(p, e))

    def _train(self, agent: Agent, number: int, *, measured: bool) -> list[Line]:
        start = time.perf_counter()
        steps = self.setup.round_steps(agent.index)
        try:
            loss = agent.train(steps, self.schedules[agent.index])
        except TrainingError as error:
            raise TrainingError(f"{self.method}, round {number}, {error}") from error
        train_s = time.perf_counter() - start
        if not measured:
            return []
        return [self._record(agent, number, "trained", train_loss=loss, train_s=train_s)]

    def _record(self, agent: Agent, number: int, phase: str, **measured: float | None) -> Line:
        """Evaluate, and write one line of metrics."""
        accuracy, loss = agent.evaluate(*self.setup.test)
        validation, _ = agent.evaluate(*agent.shard.validation())
        line: Line = {
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
            **measured,
        }
        self.folder.append(line)
        return line

    def _tell(self, number: int, history: Sequence[Line]) -> None:
        parts = []
        for phase in ("merged", "trained"):
            found = [x["test_accuracy"] for x in select(history, number, phase)]
            if found:
                parts.append(f"{phase} {100 * statistics.fmean(found):5.1f} %")
        if parts:
            self.observer.note(f"{self.method:6s} round {number:3d}  {'  '.join(parts)}")

    def _phase(self) -> str:
        return "merged" if self._merges and self.setup.config.rounds > 0 else "trained"

    def _results(self, history: Sequence[Line]) -> tuple[AgentResult, ...]:
        last = self.setup.config.rounds
        trained = select(history, last, "trained")
        merged = {x["agent"]: x["test_accuracy"] for x in select(history, last, "merged")}
        return tuple(
            AgentResult(x["agent"], x["test_accuracy"], merged.get(x["agent"])) for x in trained
        )


def method_settings(config: RunConfig) -> Settings:
    """The part of a config that a method reads."""
    own = config.matching
    return Settings(
        own.gauge,
        own.statistics,
        own.sweeps,
        own.every,
        own.drift,
        config.merging.combine,
        config.optimizer.on_merge == "mix",
    )
