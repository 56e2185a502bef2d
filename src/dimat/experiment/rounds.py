"""The algorithm, round by round: exchange, match, merge, recalibrate, evaluate, train."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dimat.agent import MATCH, RECALIBRATE, Agent
from dimat.errors import ConfigError, StructureError, TrainingError
from dimat.exchange import Talk
from dimat.exchange.in_process import run_all
from dimat.exchange.precision import in_precision
from dimat.experiment.callbacks import Callback
from dimat.experiment.checkpoint import Checkpoint, Store
from dimat.experiment.config import RunConfig
from dimat.experiment.display import Observer
from dimat.experiment.facts import run_digest, shard_facts, topology_facts
from dimat.experiment.measure import Measure
from dimat.experiment.pretrain import Pretrained
from dimat.experiment.record import RunFolder
from dimat.experiment.result import MethodResult, results_of
from dimat.experiment.setup import Setup, parameter_names
from dimat.experiment.snapshot import Snapshot
from dimat.experiment.summary import summarize
from dimat.experiment.validate import gauge_of
from dimat.merging import permute_optimizer, recalibrate, reset_optimizer
from dimat.merging.optimizer import load_memory, memory_of
from dimat.methods import METHODS, Member, Merged, Settings
from dimat.state import State, check_finite


@dataclass
class Rounds:
    """One method, from pre-trained agents to the last round.

    Args:
        setup: What all methods have in common.
        name: Of the method.
        folder: Where its metrics go.
        observer: Told how it goes.
        callbacks: Told what is measured.
    """

    setup: Setup
    name: str
    folder: RunFolder
    observer: Observer
    callbacks: Sequence[Callback] = ()
    agents: list[Agent] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.setup.config
        self.method = METHODS[self.name](method_settings(config))
        self.measure = Measure(self.setup, self.name, self.folder, self.observer, self.callbacks)
        checkpoints = self.folder.path / "checkpoints"
        self.store = Store(checkpoints, "round", config.checkpoint.keep)
        self._digest = run_digest(self.setup, self.folder.config)

    def run(self, pretrained: Sequence[Pretrained]) -> MethodResult:
        """All rounds, or those that are left; writes metrics, states and summary."""
        rounds = self.setup.config.rounds
        done = self._set_out(pretrained)
        self.observer.stage(self.name, rounds * len(self.agents))
        self.observer.advance(done * len(self.agents))
        for number in range(done + 1, rounds + 1):
            measured = self.measure.due(number)
            if self.method.exchanges == "rounds":
                self._merge(number, measured=measured)
            self._train(number, measured=measured)
            self.measure.tell(number)
            self._keep(number)
        return self._finish()

    # --- a round -----------------------------------------------------------------------------

    def _merge(self, number: int, *, measured: bool) -> None:
        """Exchange, match, merge; recalibrate; evaluate."""
        for agent in self.agents:
            self._check_finite(agent, number)
        members = [self._member(agent, number) for agent in self.agents]
        try:
            precision = self.setup.config.exchange.precision
            talks = [in_precision(self.method.merge(me), precision) for me in members]
            merged = run_all(talks, [agent.traffic for agent in self.agents])
        except StructureError as error:
            raise TrainingError(f"{self.name}, round {number}, in the merge: {error}") from error
        met = any(own.disagreement is not None for own in merged)
        if measured and met:
            matches = self.method.matches
            self.measure.merge(number, self.agents, members, merged, matches=matches)
        lines = [
            self._take_over(agent, result, number)
            for agent, result in zip(self.agents, merged, strict=True)
        ]
        if measured and met:
            for agent, line in zip(self.agents, lines, strict=True):
                self.measure.agent(agent, number, "merged", **line)
            self.states = [agent.state() for agent in self.agents]

    def _check_finite(self, agent: Agent, number: int) -> None:
        try:
            check_finite(agent.model.state_dict(), f"agent {agent.index}")
        except StructureError as error:
            raise TrainingError(
                f"{self.name}, round {number}, before the merge: {error}; training diverges"
            ) from error

    def _member(self, agent: Agent, number: int) -> Member:
        config = self.setup.config
        mixes = config.optimizer.on_merge == "mix"
        return Member(
            agent.index,
            number,
            agent.state(),
            self.setup.topology.at(number - 1),
            parameter_names(agent.model),
            lambda: self.setup.analysis,
            lambda: self._calibration(agent, MATCH, number, config.matching.images),
            agent.gauge,
            memory_of(agent.optimizer, agent.model) if mixes else {},
            config.rounds,
            len(agent.shard),
            agent.kept,
        )

    def _calibration(self, agent: Agent, purpose: int, number: int, images: int) -> list[Tensor]:
        return list(agent.calibration(purpose, number, images))

    def _take_over(self, agent: Agent, result: Merged, number: int) -> dict[str, float | None]:
        """Load the merged state, carry the optimizer along, recalibrate; what that cost."""
        start = time.perf_counter()
        agent.load(result.state)
        agent.gauge = result.gauge or agent.gauge
        agent.kept = {name: dict(own) for name, own in result.kept.items()}
        self._carry_optimizer(agent, result)
        agent.traffic.busy_s += time.perf_counter() - start
        if result.disagreement is not None and not result.calibrated:
            self._recalibrate(agent, number)  # for evaluation only: training has its own statistics
        spent = time.perf_counter() - start
        return {
            "disagreement": result.disagreement,
            "drift": result.drift,
            "match_s": result.match_s,
            "merge_s": result.merge_s + spent,
        }

    def _carry_optimizer(self, agent: Agent, result: Merged) -> None:
        """Mixed, moved as the agent's units are, or forgotten."""
        if result.disagreement is not None and self.setup.config.optimizer.on_merge == "reset":
            reset_optimizer(agent.optimizer)
        elif result.memory is not None:
            load_memory(agent.optimizer, agent.model, result.memory)
        elif result.permutation is not None:
            symmetry, p = self.setup.analysis.symmetry, result.permutation
            permute_optimizer(agent.optimizer, agent.model, lambda e: symmetry.apply(p, e))

    def _recalibrate(self, agent: Agent, number: int) -> None:
        """BatchNorm statistics of an averaged model, from the agent's own images."""
        own = self.setup.config.recalibration
        if {"all", self.name} & set(own.methods):
            recalibrate(agent.model, self._calibration(agent, RECALIBRATE, number, own.images))

    def _train(self, number: int, *, measured: bool) -> None:
        """Local steps, or steps with exchange; evaluate."""
        before = [agent.traffic.busy_s for agent in self.agents]
        try:
            precision = self.setup.config.exchange.precision
            talks = [in_precision(self._learn(agent), precision) for agent in self.agents]
            run_all(talks, [agent.traffic for agent in self.agents])
        except TrainingError as error:
            raise TrainingError(f"{self.name}, round {number}, {error}") from error
        spent = [a.traffic.busy_s - b for a, b in zip(self.agents, before, strict=True)]
        together = self.method.exchanges == "steps"
        if together and measured and len(self.agents) > 1:
            for agent in self.agents:
                self._recalibrate(agent, number)
            self.measure.training(number, self.agents)
        for agent, train_s in zip(self.agents, spent, strict=True):
            try:
                loss = agent.loss()
            except TrainingError as error:
                raise TrainingError(f"{self.name}, round {number}, {error}") from error
            if measured:
                self.measure.agent(agent, number, "trained", train_loss=loss, train_s=train_s)
        if measured and not self.measure.met(number):
            self.states = [agent.state() for agent in self.agents]

    def _learn(self, agent: Agent) -> Talk[None]:
        """One agent's steps of a round."""
        together = self.method.exchanges == "steps"
        for _ in range(self.setup.round_steps(agent.index, together=together)):
            agent.topology = self.setup.topology.at(agent.steps)
            yield from self.method.step(agent)
        self.observer.advance()

    # --- beginning, going on, and end ---------------------------------------------------------

    def _set_out(self, pretrained: Sequence[Pretrained]) -> int:
        """Agents as they are after pre-training, or after the last round that was kept: which."""
        self._started, self._spent = time.perf_counter(), 0.0
        together = self.method.exchanges == "steps"
        self.agents = [
            self.setup.new_agent(i, pretraining=False, together=together)
            for i in range(self.setup.config.agents)
        ]
        found = self.store.latest(self.observer.note, self._check)
        self.measure.history = self.folder.rewind(found.meta["sizes"] if found else {})
        for callback in self.callbacks:
            number = found.number if found else -1
            callback.started(self.name, self.folder.config, self.folder.path, number)
        if found:
            for agent, own in zip(self.agents, found.meta["agents"], strict=True):
                Snapshot.unpack(own, found.tensors).restore(agent)
            self._spent = found.meta["wall_s"]
            return found.number
        self.folder.write_json("topology", topology_facts(self.setup.topology))
        self.folder.write_json("shards", shard_facts(self.setup))
        for agent, own in zip(self.agents, pretrained, strict=True):
            own.snapshot.restore(agent, new_shard=True)
            if together:
                self.setup.set_out(agent)
            spent = own.snapshot.counters["busy_s"]
            self.measure.agent(agent, 0, "trained", train_loss=own.train_loss, train_s=spent)
        self.states = [agent.state() for agent in self.agents]
        return 0

    def _keep(self, number: int) -> None:
        """What a stopped run goes on from. The last round is not kept: its summary follows."""
        config = self.setup.config
        every = config.checkpoint.every
        if not every or number % every or number == config.rounds:
            return
        tensors: dict[str, Tensor] = {}
        snapshots = [Snapshot.of(agent).pack(str(agent.index), tensors) for agent in self.agents]
        self.folder.flush()
        meta = {
            "digest": self._digest,
            "agents": snapshots,
            "sizes": self.folder.sizes(),
            "wall_s": self._wall_s(),
        }
        self.store.write(Checkpoint(number, meta, tensors))

    def _check(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint of another run, or one whose lines are missing."""
        if checkpoint.meta["digest"] != self._digest:
            raise ConfigError(
                f"the checkpoints in {self.store.path} are of other settings or other data than "
                "this run's: undo the change, or start again with --overwrite true"
            )
        self.folder.check_lines(checkpoint.meta["sizes"])

    def _wall_s(self) -> float:
        return self._spent + time.perf_counter() - self._started

    def _finish(self) -> MethodResult:
        for agent, state in zip(self.agents, self.states, strict=True):
            self.folder.write_state(agent.index, state)
        rounds, history = self.setup.config.rounds, self.measure.history
        phase = "merged" if self.measure.met(rounds) else "trained"
        summary = summarize(self.setup.config, self.name, phase, history, self._wall_s())
        self.folder.write_json("summary", summary)
        for callback in self.callbacks:
            callback.finished(self.name, summary)
        return MethodResult(self.name, results_of(history, rounds), summary)


def method_settings(config: RunConfig, *, apart: bool = False) -> Settings:
    """The part of a config that a method reads.

    Args:
        config: Of the run.
        apart: Whether agents may miss each other, so that no step can need all of them.

    Raises:
        ConfigError: If it cannot be done then.
    """
    own, steps = config.matching, config.consensus
    return Settings(
        gauge=gauge_of(own, apart=apart),
        statistics=own.statistics,
        sweeps=own.sweeps,
        every=own.every,
        drift=own.drift,
        combine=config.merging.combine,
        mix_memory=config.optimizer.on_merge == "mix",
        order=steps.order,
        quiet_steps=steps.quiet_steps,
        mixing_steps=steps.mixing_steps,
        outer_lr=config.outer.lr,
        outer_momentum=config.outer.momentum,
        seed=config.seed,
        max_norm_ratio=config.exchange.max_norm_ratio,
    )
