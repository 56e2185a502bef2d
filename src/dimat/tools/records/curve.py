"""The curve of a run: scores of its agents, and resources used, phase by phase.

A score is the value of the main metric of the run's task: the accuracy of classification.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """One line of ``metrics.jsonl``; values that were not recorded are None.

    Args:
        round: Number of the round; 0 is after pre-training.
        agent: Number of the agent, from 0.
        phase: trained or merged.
        score: Main test metric, such as accuracy, a fraction in [0, 1].
        sent_bytes: Bytes sent by the agent since the run began.
        steps: Optimizer steps of the agent since the run began.
        epochs: Passes over the agent's own shard since the run began.
        busy_s: Seconds that the agent computed since the run began.
        match_s: Seconds of this phase spent matching.
        merge_s: Seconds of this phase spent merging.
        train_s: Seconds of this phase spent training.
    """

    round: int
    agent: int
    phase: str
    score: float | None = None
    sent_bytes: float | None = None
    steps: float | None = None
    epochs: float | None = None
    busy_s: float | None = None
    match_s: float | None = None
    merge_s: float | None = None
    train_s: float | None = None


@dataclass(frozen=True)
class Measurement:
    """Scores of all agents at the end of a phase, and resources used since the run began.

    A resource is None if not every agent recorded it.

    Args:
        round: Number of the round; 0 is after pre-training.
        phase: trained or merged.
        scores: Main test metric by agent; empty unless every agent of the run was measured, since
            the mean of some agents is not that of the run.
        sent_bytes: Bytes sent by all agents together.
        steps: Optimizer steps of all agents together.
        epochs: Passes over an agent's own shard, mean over agents.
        busy_s: Seconds of a run whose agents go in step: see :func:`busy_s`.
    """

    round: int = 0
    phase: str = "trained"
    scores: Mapping[int, float] = field(default_factory=dict)
    sent_bytes: float | None = None
    steps: float | None = None
    epochs: float | None = None
    busy_s: float | None = None

    @property
    def score(self) -> float | None:
        """Mean of the main test metric over the agents; None unless every agent was measured."""
        return statistics.fmean(self.scores.values()) if self.scores else None


@dataclass(frozen=True)
class Curve:
    """The measurements of a run in order.

    Args:
        phases: The measurement after every phase, in order.
    """

    phases: tuple[Measurement, ...]

    @property
    def rounds(self) -> tuple[Measurement, ...]:
        """The measurement of each round: after its merge if it has one, else after training."""
        found: dict[int, Measurement] = {}
        for phase in self.phases:
            found.setdefault(phase.round, phase)
        return tuple(found.values())

    @property
    def measured(self) -> tuple[Measurement, ...]:
        """The measurements of rounds in which every agent was measured; a killed run has others."""
        return tuple(own for own in self.rounds if own.scores)

    @property
    def end(self) -> Measurement:
        """The measurement after the last phase, with the resources that the whole run used."""
        return self.phases[-1] if self.phases else Measurement()

    def after(self, phase: str, number: int | None = None) -> float | None:
        """Mean of the main test metric after a phase; None if it was not measured.

        Args:
            phase: trained or merged.
            number: The round, from 0; None for the last round that has the phase.
        """
        found = [x for x in self.phases if x.phase == phase and number in (x.round, None)]
        return found[-1].score if found else None


def in_order(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Lines sorted by round, phase and agent; of lines that a resumed run wrote twice, the last.

    Args:
        lines: Lines in the order of their file.
    """
    latest = {(line.round, line.phase, line.agent): line for line in lines}
    return tuple(latest[key] for key in sorted(latest))  # merged comes before trained


def curve_of(lines: Sequence[Line]) -> Curve:
    """The curve of a run.

    Args:
        lines: All lines of metrics, as sorted by :func:`in_order`.
    """
    agents = {line.agent for line in lines}
    phases: dict[tuple[int, str], list[Line]] = {}
    for line in lines:
        phases.setdefault((line.round, line.phase), []).append(line)
    seconds = busy_s({line.agent: line.busy_s for line in own} for own in phases.values())
    return Curve(
        tuple(
            Measurement(
                number,
                phase,
                _scores(own, agents),
                _of_all(math.fsum, [line.sent_bytes for line in own]),
                _of_all(math.fsum, [line.steps for line in own]),
                _of_all(statistics.fmean, [line.epochs for line in own]),
                spent,
            )
            for ((number, phase), own), spent in zip(phases.items(), seconds, strict=True)
        )
    )


def busy_s(phases: Iterable[Mapping[int, float | None]]) -> list[float | None]:
    """Seconds until the end of each phase, which lasts as long as its slowest agent computes.

    The others wait for that agent, so this is the time of the run with a device for each agent,
    without evaluation and without the travel time of messages.

    Args:
        phases: The measured phases in order: for each agent the seconds that it had computed by the
            end of the phase, ``busy_s`` of ``metrics.jsonl``, None if not recorded.

    Returns:
        Seconds by phase; None from the first phase on in which an agent has no record.
    """
    found: list[float | None] = []
    before: dict[int, float] = {}
    total: float | None = 0.0
    for phase in phases:
        own = {agent: value for agent, value in phase.items() if value is not None}
        if total is None or len(own) < len(phase):
            total = None
        else:
            total += max(value - before.get(agent, 0.0) for agent, value in own.items())
            before.update(own)
        found.append(total)
    return found


def _scores(lines: Sequence[Line], agents: set[int]) -> dict[int, float]:
    found = {x.agent: x.score for x in lines if x.score is not None}
    return found if found.keys() == agents else {}


def _of_all(
    function: Callable[[Sequence[float]], float], values: Sequence[float | None]
) -> float | None:
    """``function`` of the values; None if one of them is None or there is none."""
    present = [value for value in values if value is not None]
    return function(present) if present and len(present) == len(values) else None
