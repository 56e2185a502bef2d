"""Runs as they were recorded: the files of their folders as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dimat.tools.records.curve import Curve, Line, curve_of

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Diagnosis:
    """One line of ``diagnostics.jsonl``.

    Args:
        round: The measured round.
        numbers: What is one number, such as ``consensus_before``.
        groups: What is a number for every group of units, such as ``units_moved``.
    """

    round: int
    numbers: Mapping[str, float]
    groups: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Graph:
    """``topology.json``: who hears whom, and how much.

    Args:
        name: Of the topology.
        directed: Whether edge (i, j) says only that j hears i.
        edges: Pairs of agents.
        pi: Mixing matrix of the first round; row i is what agent i listens to.
        spectral_gap: Of ``pi``, or of the sequence.
        sequence: Mixing matrices one after another, if the topology changes.
    """

    name: str
    directed: bool
    edges: tuple[tuple[int, int], ...]
    pi: Matrix
    spectral_gap: float | None = None
    sequence: tuple[Matrix, ...] = ()


@dataclass(frozen=True)
class Shards:
    """``shards.json``: how many images of every class every agent has.

    Args:
        classes: Their names.
        pretrain: A row of counts an agent, in pre-training.
        rounds: The same in the rounds after it.
    """

    classes: tuple[str, ...]
    pretrain: Matrix
    rounds: Matrix


@dataclass(frozen=True)
class Run:
    """One method with one seed: a run folder, or one that is planned and not there yet.

    Args:
        source: The folder given by the user that it was found in.
        folder: Its own folder.
        method: Its name.
        seed: Seed of everything random.
        settings: Every other setting by its dotted name, less those that only say where to write.
        config: ``config.yaml`` as it is; empty if the run is not there yet.
        environment: Versions and hardware.
        summary: ``summary.json``; None while the run is unfinished.
        lines: Its metrics, by round, phase and agent.
        diagnostics: In the order of their rounds.
        graph: None if not recorded.
        shards: None if not recorded.
        notes: What a reader should know about its files.
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

    @property
    def finished(self) -> bool:
        """Whether it came to its last round."""
        return self.summary is not None

    @property
    def begun(self) -> bool:
        """Whether there is a folder of it."""
        return bool(self.config)

    @property
    def accuracy(self) -> float | None:
        """What it came to, mean over agents: as its summary says, else in the last round."""
        recorded, measured = self.number("test_accuracy_mean"), self.curve.measured
        return measured[-1].accuracy if recorded is None and measured else recorded

    @cached_property
    def curve(self) -> Curve:
        """Its accuracy phase by phase, and at what cost."""
        return curve_of(self.lines)

    def number(self, name: str) -> float | None:
        """A number of the summary; None if it has none of that name."""
        value = (self.summary or {}).get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value)


@dataclass(frozen=True)
class Source:
    """A folder that the user named.

    Args:
        path: The folder.
        kind: run or comparison.
        runs: What is in it, in order.
        command: What makes it again.
    """

    path: str
    kind: str
    runs: tuple[Run, ...]
    command: str
