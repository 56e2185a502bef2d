"""A run round by round: the accuracy of a round, and what it took to get there."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dimat.tools.records.busy import busy_s
from dimat.tools.records.run import Line, Run


@dataclass(frozen=True)
class Measured:
    """One measured round of a run.

    Args:
        round: 0 is after pre-training.
        phase: After which its accuracy was measured: merged where agents merge, else trained.
        accuracies: Test accuracy of every agent by its number, a fraction.
        sent_bytes: By all agents together until then; None if not recorded.
        epochs: Passes over the own shard until then, mean over agents; None if not recorded.
        busy_s: Seconds of a run in step until then (busy.py); None if not recorded.
    """

    round: int
    phase: str
    accuracies: dict[int, float]
    sent_bytes: float | None
    epochs: float | None
    busy_s: float | None

    @property
    def accuracy(self) -> float:
        """Mean over the agents."""
        return statistics.fmean(self.accuracies.values())


def curve(run: Run) -> tuple[Measured, ...]:
    """All rounds in which every agent was measured, in order.

    The accuracy of a round is that of its merged lines if there are any, else of its trained ones.
    A round that a killed run did not come through is left out: its mean would be of some agents.
    """
    agents = {line.agent for line in run.lines}
    phases = _phases(run)
    measured: dict[int, Measured | None] = {}
    for ((number, phase), lines), spent in zip(phases.items(), _busy(phases), strict=True):
        if number not in measured:  # merged comes before trained
            whole = {line.agent for line in lines if line.test_accuracy is not None} == agents
            measured[number] = _measured(number, phase, lines, spent) if whole else None
    return tuple(own for own in measured.values() if own)


def total_busy_s(run: Run) -> float | None:
    """Seconds of a run in step until its last line (busy.py); None if not recorded."""
    found = _busy(_phases(run))
    return found[-1] if found else None


def _phases(run: Run) -> dict[tuple[int, str], list[Line]]:
    """All lines by round and phase, in order; of lines that a resumed run wrote twice the last."""
    latest = {(line.round, line.phase, line.agent): line for line in run.lines}
    found: dict[tuple[int, str], list[Line]] = {}
    for (number, phase, _), line in sorted(latest.items(), key=lambda item: item[0]):
        found.setdefault((number, phase), []).append(line)
    return found


def _busy(phases: Mapping[tuple[int, str], Sequence[Line]]) -> list[float | None]:
    return busy_s({line.agent: line.busy_s for line in lines} for lines in phases.values())


def _measured(number: int, phase: str, lines: Sequence[Line], spent: float | None) -> Measured:
    return Measured(
        number,
        phase,
        {line.agent: line.test_accuracy for line in lines if line.test_accuracy is not None},
        _all(sum, (line.sent_bytes for line in lines)),
        _all(statistics.fmean, (line.epochs for line in lines)),
        spent,
    )


def _all(
    function: Callable[[Sequence[float]], float], values: Iterable[float | None]
) -> float | None:
    """``function`` of the values; None if one is missing."""
    found = list(values)
    present = [value for value in found if value is not None]
    return float(function(present)) if present and len(present) == len(found) else None


def last_lines(run: Run) -> tuple[Line, ...]:
    """The last line of every agent: its cumulative numbers are those of the whole run."""
    return tuple({line.agent: line for line in run.lines}.values())
