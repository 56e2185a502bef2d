"""What a finished run of one method left behind: its summary and its curve."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dimat.errors import RecordError
from dimat.experiment.compare.budget import RESOURCES, Curve, Moment

_Line = dict[str, Any]


def is_finished(folder: Path) -> bool:
    """Whether the run of that folder, of one method, came to its end."""
    return (folder / "summary.json").is_file()


def read_summary(folder: Path) -> dict[str, object]:
    """What ``summary.json`` holds.

    Raises:
        RecordError: If it cannot be read.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(summary, dict):
        raise RecordError(f"'{path}' holds no summary")
    return summary


def read_curve(folder: Path) -> Curve:
    """The curve that ``metrics.jsonl`` describes.

    Raises:
        RecordError: If a line cannot be read; names file and line.
    """
    path = folder / "metrics.jsonl"
    lines: list[_Line] = []
    try:
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            lines.append(_line(text, f"'{path}', line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"'{path}' cannot be read: {error}") from error
    return curve_of(lines)


def curve_of(lines: Sequence[_Line]) -> Curve:
    """The curve of metrics as they are recorded.

    A round's accuracy is that after its merge if it has one, else after its training; what had been
    used by then is counted at the same moment. The total is that of the end of the last round.
    """
    latest = {(x["round"], x["phase"], x["agent"]): x for x in lines}
    rounds: dict[int, dict[str, list[_Line]]] = {}
    for (number, phase, _), line in latest.items():
        rounds.setdefault(number, {}).setdefault(phase, []).append(line)
    moments = tuple(
        _moment(number, phases.get("merged") or phases["trained"])
        for number, phases in sorted(rounds.items())
    )
    last = rounds[max(rounds)] if rounds else {}
    return Curve(moments, _used(last.get("trained") or last.get("merged") or []))


def _line(text: str, where: str) -> _Line:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise RecordError(f"{where} is broken: {error}") from error
    if not (isinstance(line, dict) and {"round", "phase", "agent"} <= line.keys()):
        raise RecordError(f"{where} lacks round, phase or agent")
    return line


def _moment(number: int, lines: Sequence[_Line]) -> Moment:
    return Moment(number, _mean(lines, "test_accuracy"), _used(lines))


def _used(lines: Sequence[_Line]) -> dict[str, float | None]:
    """Bytes of all agents together; epochs and seconds in the mean."""
    means = {resource: _mean(lines, resource) for resource in RESOURCES}
    sent = means["sent_bytes"]
    return means | {"sent_bytes": None if sent is None else math.fsum(_all(lines, "sent_bytes"))}


def _mean(lines: Sequence[_Line], name: str) -> float | None:
    """None unless all agents have it."""
    values = _all(lines, name)
    return statistics.fmean(values) if values and len(values) == len(lines) else None


def _all(lines: Sequence[_Line], name: str) -> list[float]:
    return [float(line[name]) for line in lines if line.get(name) is not None]
