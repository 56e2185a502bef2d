"""The totals of a series: the numbers of the table of results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dimat.tools.records.run import Run
from dimat.tools.report.compared import Series

PHASES = ("match_s", "merge_s", "train_s")


@dataclass(frozen=True)
class Total:
    """The numbers of a series in one row of the table; only finished runs count.

    Args:
        of: Number of planned runs.
        scores: Final main test metric of every finished run, mean over agents.
        worst: That of a run's worst agent, mean over the runs; None if not recorded.
        sent_bytes: Bytes sent by all agents together, mean over the runs; None if not recorded.
        busy_s: Seconds of a run whose agents go in step, mean over the runs; None if not recorded.
        began: The same before round 1, mean over agents and runs; None if not recorded.
        merged: Right after the last merge, likewise; None for a method without merges.
        trained: After the last training, likewise; None if not recorded.
    """

    of: int
    scores: tuple[float, ...]
    worst: float | None
    sent_bytes: float | None
    busy_s: float | None
    began: float | None = None
    merged: float | None = None
    trained: float | None = None

    @property
    def n(self) -> int:
        """Number of finished runs."""
        return len(self.scores)

    @property
    def mean(self) -> float | None:
        """Mean final score over the finished runs; None without any."""
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation of the final score; None for fewer than two runs."""
        return statistics.stdev(self.scores) if self.n > 1 else None


def total(series: Series) -> Total:
    """The numbers of a series.

    Args:
        series: The series.
    """
    runs = series.finished
    return Total(
        len(series.runs),
        tuple(run.score for run in runs if run.score is not None),
        _mean([run.worst for run in runs]),
        _mean([run.curve.end.sent_bytes for run in runs]),
        _mean([run.curve.end.busy_s for run in runs]),
        _mean([run.curve.after("trained", 0) for run in runs]),
        _mean([run.curve.after("merged") for run in runs]),
        _mean([run.curve.after("trained") for run in runs]),
    )


def seconds(runs: Sequence[Run]) -> dict[str, float | None]:
    """Seconds of matching, merging and training, all agents together, mean over the runs.

    Args:
        runs: The runs.

    Returns:
        Seconds by column of the metrics; None if not recorded.
    """
    return {phase: _mean([_spent(run, phase) for run in runs]) for phase in PHASES}


def bytes_sent(runs: Sequence[Run]) -> tuple[float | None, float | None]:
    """Bytes sent for merges and while training, all agents together, mean over the runs.

    Bytes between an agent's line after a merge and the line before it were sent for that merge.

    Args:
        runs: The runs.

    Returns:
        Bytes for merges, and bytes while training; None if not recorded.
    """
    split = [_split(run) for run in runs]
    merging = _mean([None if each is None else each[0] for each in split])
    return merging, _mean([None if each is None else each[1] for each in split])


def _split(run: Run) -> tuple[float, float] | None:
    before: dict[int, float] = {}
    sent = {"merged": 0.0, "trained": 0.0}
    for line in run.lines:
        if line.sent_bytes is None:
            return None
        sent[line.phase] += max(0.0, line.sent_bytes - before.get(line.agent, 0.0))
        before[line.agent] = line.sent_bytes
    return (sent["merged"], sent["trained"]) if before else None


def _spent(run: Run, phase: str) -> float | None:
    found = [getattr(line, phase) for line in run.lines]
    present = [float(x) for x in found if x is not None]
    return sum(present) if present else None


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values; None if one of them is None or there is none."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present and len(present) == len(values) else None
