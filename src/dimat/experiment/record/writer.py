"""The writer of a method's run folder and callbacks, in agent 0's process alone."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dimat.errors import ConfigError
from dimat.exchange.tree import Tree, pack, unpack
from dimat.experiment.callbacks.callback import Callback
from dimat.experiment.digests import (
    chosen_facts,
    run_digest,
    shard_facts,
    task_facts,
    topology_facts,
)
from dimat.experiment.progress import Progress
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.record.class_records import ClassRecords
from dimat.experiment.record.lines import Line, digest_name
from dimat.experiment.record.results import MethodResult, results_of
from dimat.experiment.record.run_folder import OVERWRITE, RunFolder
from dimat.experiment.record.summary import best_round, select, summarize
from dimat.experiment.setup import Setup
from dimat.state import State


@dataclass(frozen=True)
class ResumePoint:
    """The point that a run is resumed from.

    Args:
        number: The last round that is done.
        agents: The snapshots of all agents after that round, as trees.
    """

    number: int
    agents: Sequence[Tree]


@dataclass
class RunWriter:
    """The writer of one method's measurements, checkpoints, states and summary.

    Args:
        setup: Data, graph and settings that all methods of the run share.
        name: Registry name of the method.
        folder: Run folder of the method.
        progress: Receives a line of news for each measured round.
        callbacks: Receive the measurements.
    """

    setup: Setup
    name: str
    folder: RunFolder
    progress: Progress
    callbacks: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        path, keep = self.folder.path / "checkpoints", self.setup.config.checkpoint.keep
        self.store = CheckpointFolder(path, "round", keep)
        self._digest = run_digest(self.setup, self.folder.config)
        self._classes = ClassRecords(self.folder)
        self._fresh: list[Line] = []

    def open(self) -> ResumePoint | None:
        """Begin the method, or resume it from its last checkpoint.

        Returns:
            The point to resume from; None if there is no checkpoint.

        Raises:
            ConfigError: If the checkpoints are those of another run.
            RecordError: If lines that were written before the checkpoint were changed.
        """
        self._started, self._spent = time.perf_counter(), 0.0
        found = self.store.latest(self.progress.note, self._check)
        self.folder.rewind(found.meta["sizes"] if found else {})
        for callback in self.callbacks:
            number = found.number if found else -1
            callback.started(self.name, self.folder.config, self.folder.path, number)
        if found is None:
            network = self.setup.topology
            facts = {**topology_facts(network), "spectral_gap": network.spectral_gap}
            self.folder.write_json("topology", facts)
            self.folder.write_json("shards", shard_facts(self.setup))
            if facts := task_facts(self.setup):
                self.folder.write_json("task", facts)
            if facts := chosen_facts(self.setup, self.folder.config, self.name):
                self.folder.write_json("chosen", facts)
            return None
        self._spent = found.meta["wall_s"]
        return ResumePoint(
            found.number, [unpack(own, found.tensors) for own in found.meta["agents"]]
        )

    def _check(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint of another run, or one whose lines are missing."""
        if checkpoint.meta["digest"] != self._digest:
            raise ConfigError(
                f"the checkpoints in {self.store.path} are of other settings or other data than "
                f"this run's: undo the change, or start again with {OVERWRITE}"
            )
        self.folder.check_lines(checkpoint.meta)

    def metrics(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Write lines of metrics, and pass them to the callbacks.

        Args:
            lines: The lines of one phase of a round, an agent each.
        """
        for line in lines:
            read = self.folder.append(line)
            self._fresh.append(read)
            self._tell(read)

    def classes(self, number: int, phase: str, agents: Sequence[Tree | None]) -> None:
        """Write what is known of the classes of all agents after a phase.

        Args:
            number: The round.
            phase: merged or trained.
            agents: Recall and counts of each agent; None where a task has no classes.
        """
        self._classes.write(number, phase, dict(enumerate(agents)))

    def diagnostics(self, line: Mapping[str, object]) -> None:
        """Write a line of diagnostics, and pass it to the callbacks.

        Args:
            line: Its values by name.
        """
        self._tell(self.folder.append(line, "diagnostics"))

    def _tell(self, line: Line) -> None:
        for callback in self.callbacks:
            callback.measured(self.name, copy.deepcopy(line))  # what it does with it is its own

    def news(self, number: int) -> None:
        """Pass one line of news on a round to the progress, if the round was measured.

        Args:
            number: The round, from 1.
        """
        metric = self.setup.metric
        parts, fresh = [], self._fresh
        self._fresh = []
        for phase in ("merged", "trained"):
            found = [x[f"test_{metric.name}"] for x in select(fresh, number, phase)]
            if found:
                mean = None if None in found else statistics.fmean(found)
                parts.append(f"{phase} {metric.note(mean)}")
        if parts:
            self.progress.note(f"{self.name:6s} round {number:3d}  {'  '.join(parts)}")

    def keep(self, number: int, snapshots: Sequence[Tree]) -> None:
        """Write a checkpoint.

        Args:
            number: The last round that is done.
            snapshots: The snapshots of all agents after that round, as trees.
        """
        tensors: dict[str, Tensor] = {}
        agents = [pack(own, str(i), tensors) for i, own in enumerate(snapshots)]
        self.folder.flush()
        meta = {
            "digest": self._digest,
            "agents": agents,
            **self.folder.moment(),
            "wall_s": self._wall_s(),
        }
        self.store.write(Checkpoint(number, meta, tensors))

    def close(self, states: Sequence[State]) -> MethodResult:
        """Write the states of all agents, and the summary.

        Args:
            states: The state of each agent that is reported for the last round.

        Returns:
            The results of the method.
        """
        for agent, state in enumerate(states):
            self.folder.write_state(agent, state)
        rounds, metric = self.setup.config.rounds, self.setup.metric
        ends = [line for line in self.folder.lines() if line["round"] in (0, rounds)]
        phase = "merged" if select(ends, rounds, "merged") else "trained"
        best = best_round(self.folder.lines(), phase, metric)
        digests = {digest_name(file): own for file, own in self.folder.digests().items()}
        numbers = summarize(self.setup.config, self.name, phase, ends, best, self._wall_s())
        summary = numbers | digests
        self.folder.write_json("summary", summary)
        for callback in self.callbacks:
            callback.finished(self.name, copy.deepcopy(summary))
        return MethodResult(self.name, results_of(ends, rounds, metric), summary)

    def _wall_s(self) -> float:
        return self._spent + time.perf_counter() - self._started
