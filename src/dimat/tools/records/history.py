"""What a finished run of one method left behind: its summary and its curve."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from dimat.errors import RecordError
from dimat.experiment.record.lines import Line, check_finished, read_lines
from dimat.experiment.record.run_folder import read_summary as summary_of
from dimat.tools.records.busy import busy_s
from dimat.tools.records.measured import Curve, Moment


def is_finished(folder: Path) -> bool:
    """Whether the run of that folder, of one method, came to its end."""
    return (folder / "summary.json").is_file()


def read_summary(folder: Path) -> dict[str, object]:
    """What ``summary.json`` holds.

    Raises:
        RecordError: If it cannot be read, or lines that it is of were changed.
    """
    summary = summary_of(folder / "summary.json")
    check_finished(folder, summary)
    return summary


def read_curve(folder: Path) -> Curve:
    """The curve that ``metrics.jsonl`` describes.

    Raises:
        RecordError: If a line cannot be read; names file and line.
    """
    path = folder / "metrics.jsonl"
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if not {"round", "phase", "agent"} <= line.keys():
            raise RecordError(f"'{path}', line {number} lacks round, phase or agent")
    return curve_of(lines)


def curve_of(lines: Sequence[Line]) -> Curve:
    """The curve of metrics as they are recorded.

    A round's accuracy is that after its merge if it has one, else after its training; what had been
    used by then is counted at the same moment. The total is that of the end of the last round.
    """
    latest = {(x["round"], x["phase"], x["agent"]): x for x in lines}
    phases: dict[tuple[int, str], list[Line]] = {}
    for (number, phase, _), line in sorted(latest.items(), key=lambda item: item[0][:2]):
        phases.setdefault((number, phase), []).append(line)  # merged comes before trained
    used: dict[int, dict[str, float | None]] = {}
    accuracy: dict[int, float | None] = {}
    total: dict[str, float | None] = {}
    seconds = busy_s({x["agent"]: x.get("busy_s") for x in own} for own in phases.values())
    for ((number, _), own), spent in zip(phases.items(), seconds, strict=True):
        total = {**_used(own), "busy_s": spent}
        used.setdefault(number, total)
        accuracy.setdefault(number, _mean(own, "test_accuracy"))
    return Curve(tuple(Moment(r, accuracy[r], used[r]) for r in accuracy), total)


def _used(lines: Sequence[Line]) -> dict[str, float | None]:
    """Bytes and steps of all agents together; None of what not all have."""
    return {name: _sum(lines, name) for name in ("sent_bytes", "steps")}


def _sum(lines: Sequence[Line], name: str) -> float | None:
    values = _all(lines, name)
    return math.fsum(values) if values and len(values) == len(lines) else None


def _mean(lines: Sequence[Line], name: str) -> float | None:
    """None unless all agents have it."""
    values = _all(lines, name)
    return statistics.fmean(values) if values and len(values) == len(lines) else None


def _all(lines: Sequence[Line], name: str) -> list[float]:
    return [float(line[name]) for line in lines if line.get(name) is not None]
