"""Recorded runs: the files of their folders as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dimat.metric import ACCURACY, Metric
from dimat.tools.records.curve import Curve, Line, curve_of

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Diagnosis:
    """One line of ``diagnostics.jsonl``.

    Args:
        round: The measured round, from 1.
        numbers: Measurements of one number, such as ``consensus_before``, by name.
        groups: Measurements of a number for every group of units, such as ``units_moved``, by name.
    """

    round: int
    numbers: Mapping[str, float]
    groups: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Graph:
    """The graph and mixing matrix of a run, from ``topology.json``.

    Args:
        name: Name of the topology.
        directed: Whether edge (i, j) means only that j hears i.
        edges: Pairs of agents.
        pi: Mixing matrix of the first time; row i is what agent i listens to.
        spectral_gap: Spectral gap of ``pi``, or of the sequence; None if not recorded.
        sequence: Mixing matrix at each recorded time, if the topology varies; else empty.
    """

    name: str
    directed: bool
    edges: tuple[tuple[int, int], ...]
    pi: Matrix
    spectral_gap: float | None = None
    sequence: tuple[Matrix, ...] = ()


@dataclass(frozen=True)
class Shards:
    """The number of images of each class at each agent, from ``shards.json``.

    Args:
        classes: Names of the classes.
        pretrain: Images in pre-training: a row for each agent, a column for each class.
        rounds: Images in the rounds after it, likewise.
    """

    classes: tuple[str, ...]
    pretrain: Matrix
    rounds: Matrix


@dataclass(frozen=True)
class Recall:
    """One line of ``classes.jsonl``.

    Args:
        round: Number of the round; 0 is after pre-training.
        agent: Number of the agent, from 0.
        phase: trained or merged.
        values: Share of the test samples of each class that the agent takes for it; None for a
            class without any.
    """

    round: int
    agent: int
    phase: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Run:
    """The run of one method with one seed: a run folder, or a planned run that has not begun.

    Args:
        source: The folder given by the user that the run was found in.
        folder: Run folder of the method.
        method: Registry name of the method.
        seed: Seed of everything random.
        settings: Every other setting by its dotted name, but for those of output and checkpoints.
        config: Text of ``config.yaml``; empty if the run has not begun.
        chosen: What settings that were left to dimat came to, by dotted name, from ``chosen.json``;
            empty if not recorded.
        environment: Versions and hardware, from ``environment.json``.
        summary: Content of ``summary.json``; None while the run is unfinished.
        lines: Lines of metrics, by round, phase and agent.
        diagnostics: Lines of diagnostics, by round.
        graph: Graph and mixing matrix; None if not recorded.
        shards: Images of each class at each agent; None if not recorded.
        notes: Remarks on the files for readers of a report.
        metric: The main metric of its task.
        recalls: Recall of every class by round, phase and agent; empty if not recorded.
        confusion: By phase of the last round, how often test samples of each class (a row) were
            taken for each (a column), all agents together; empty if not recorded.
    """

    source: str
    folder: str
    method: str
    seed: int
    settings: Mapping[str, object]
    config: str = ""
    environment: Mapping[str, object] = field(default_factory=dict)
    summary: Mapping[str, object] | None = None
    lines: tuple[Line, ...] = ()
    diagnostics: tuple[Diagnosis, ...] = ()
    graph: Graph | None = None
    shards: Shards | None = None
    notes: tuple[str, ...] = ()
    metric: Metric = ACCURACY
    recalls: tuple[Recall, ...] = ()
    confusion: Mapping[str, Matrix] = field(default_factory=dict)
    chosen: Mapping[str, object] = field(default_factory=dict)

    @property
    def worst(self) -> float | None:
        """The final main test metric of the worst agent; None if not recorded."""
        end = "min" if self.metric.higher_is_better else "max"
        recorded, measured = self.number(f"test_{self.metric.name}_{end}"), self.curve.measured
        if recorded is None and measured:
            return self.metric.worst([*measured[-1].scores.values()])
        return recorded

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes whose recall is recorded; their numbers, if they have no names."""
        count = len(self.recalls[0].values) if self.recalls else 0
        named = self.shards is not None and len(self.shards.classes) == count
        return self.shards.classes if self.shards and named else tuple(map(str, range(count)))

    @property
    def finished(self) -> bool:
        """Whether the run has done its last round."""
        return self.summary is not None

    @property
    def begun(self) -> bool:
        """Whether the run has a folder."""
        return bool(self.config)

    @property
    def score(self) -> float | None:
        """Final main test metric, mean over agents: from the summary, else of the last round."""
        recorded, measured = self.number(f"test_{self.metric.name}_mean"), self.curve.measured
        return measured[-1].score if recorded is None and measured else recorded

    @cached_property
    def curve(self) -> Curve:
        """Scores and resources used, phase by phase."""
        return curve_of(self.lines)

    def number(self, name: str) -> float | None:
        """A number of the summary; None if there is none of that name.

        Args:
            name: Key in ``summary.json``.
        """
        value = (self.summary or {}).get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value)


@dataclass(frozen=True)
class Source:
    """A folder that the user named, with its runs.

    Args:
        path: The folder.
        kind: run or comparison.
        runs: The runs in the folder, in order.
        command: The command that repeats them.
    """

    path: str
    kind: str
    runs: tuple[Run, ...]
    command: str
