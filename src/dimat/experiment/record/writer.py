"""What agent 0's process alone does for a method: write the folder, tell who wants to know."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dimat.errors import ConfigError
from dimat.exchange.tree import Tree, pack, unpack
from dimat.experiment.callbacks.callback import Callback
from dimat.experiment.digests import run_digest, shard_facts, topology_facts
from dimat.experiment.progress import Progress
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.record.lines import Line, digest_name
from dimat.experiment.record.results import MethodResult, results_of
from dimat.experiment.record.run_folder import OVERWRITE, RunFolder
from dimat.experiment.record.summary import select, summarize
from dimat.experiment.setup import Setup
from dimat.state import State


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on.

    Args:
        number: The last round that is done.
        agents: The snapshots of all agents then, as trees.
    """

    number: int
    agents: Sequence[Tree]


@dataclass
class RunWriter:
    """Where all that is known of a method's rounds comes together.

    Args:
        setup: What all methods have in common.
        name: Of the method.
        folder: Where it is written.
        observer: Told how it goes.
        callbacks: Told what is measured.
        history: All lines of metrics so far.
    """

    setup: Setup
    name: str
    folder: RunFolder
    observer: Progress
    callbacks: Sequence[Callback] = ()
    history: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        path, keep = self.folder.path / "checkpoints", self.setup.config.checkpoint.keep
        self.store = CheckpointFolder(path, "round", keep)
        self._digest = run_digest(self.setup, self.folder.config)
        self._fresh: list[Line] = []

    def open(self) -> ResumePoint | None:
        """Begin, or go on after the last round that was kept: then what was kept.

        Raises:
            ConfigError: If what was kept is of another run.
            RecordError: If lines until then were changed.
        """
        self._started, self._spent = time.perf_counter(), 0.0
        found = self.store.latest(self.observer.note, self._check)
        self.history = self.folder.rewind(found.meta["sizes"] if found else {})
        for callback in self.callbacks:
            number = found.number if found else -1
            callback.started(self.name, self.folder.config, self.folder.path, number)
        if found is None:
            self.folder.write_json("topology", topology_facts(self.setup.topology))
            self.folder.write_json("shards", shard_facts(self.setup))
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
        """Write lines of metrics, and tell them."""
        for line in lines:
            read = self.folder.append(line)
            self.history.append(read)
            self._fresh.append(read)
            self._tell(read)

    def diagnostics(self, line: Mapping[str, object]) -> None:
        """Write a line of diagnostics, and tell it."""
        self._tell(self.folder.append(line, "diagnostics"))

    def _tell(self, line: Line) -> None:
        for callback in self.callbacks:
            callback.measured(self.name, line)

    def news(self, number: int) -> None:
        """One line of news on the round, if it was measured."""
        parts, fresh = [], self._fresh  # not all lines so far: they are more in every round
        self._fresh = []
        for phase in ("merged", "trained"):
            found = [x["test_accuracy"] for x in select(fresh, number, phase)]
            if found:
                parts.append(f"{phase} {100 * statistics.fmean(found):5.1f} %")
        if parts:
            self.observer.note(f"{self.name:6s} round {number:3d}  {'  '.join(parts)}")

    def keep(self, number: int, snapshots: Sequence[Tree]) -> None:
        """Write what a stopped run goes on from: the snapshots of all agents after a round."""
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
            states: Those that the accuracies of the last round are of.
        """
        for agent, state in enumerate(states):
            self.folder.write_state(agent, state)
        rounds, history = self.setup.config.rounds, self.history
        phase = "merged" if select(history, rounds, "merged") else "trained"
        digests = {digest_name(file): own for file, own in self.folder.digests().items()}
        summary = summarize(self.setup.config, self.name, phase, history, self._wall_s()) | digests
        self.folder.write_json("summary", summary)
        for callback in self.callbacks:
            callback.finished(self.name, summary)
        return MethodResult(self.name, results_of(history, rounds), summary)

    def _wall_s(self) -> float:
        return self._spent + time.perf_counter() - self._started
