"""``comparison.csv``: a row for every cell and method; fractions, bytes, seconds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from dimat.experiment.config.access import shown
from dimat.tools.compare.budget import RESOURCES
from dimat.tools.compare.spec import Cell, Spec
from dimat.tools.compare.trial import MethodRun

_AT_EQUAL = {"sent_bytes": "bytes", "steps": "epochs", "busy_s": "time"}
_SUMMARY = ("rounds", "test_accuracy_mean", "test_accuracy_min", "test_accuracy_std", "best_round")
PHASES: tuple[str, ...] = ("start_accuracy_mean", "merged_accuracy_mean", "trained_accuracy_mean")
NUMBERS: tuple[str, ...] = (
    *_SUMMARY,
    *PHASES,
    "sent_bytes",
    "steps",
    "busy_s",
    "wall_s",
    *(f"at_equal_{name}" for name in _AT_EQUAL.values()),
)


def to_csv(spec: Spec, cells: Sequence[Cell], trials: Mapping[str, Sequence[MethodRun]]) -> str:
    """The table as text.

    Args:
        spec: What is compared.
        cells: All cells.
        trials: Those of every finished cell, by the cell's name.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["cell", *spec.grid, "seed", "method", "finished", *NUMBERS])
    for cell in cells:
        done = {trial.method: trial for trial in trials.get(cell.name, ())}
        for method in spec.methods:
            own = done.get(method)
            point = [shown(value) for value in cell.point.values()]
            head = [cell.name, *point, cell.seed, method, "true" if own else "false"]
            numbers = {} if own is None else numbers_of(own)
            writer.writerow(head + [_text(numbers.get(name)) for name in NUMBERS])
    return file.getvalue()


def numbers_of(trial: MethodRun) -> dict[str, float | None]:
    """All numbers of a trial by their columns; None where something was not recorded."""
    return {
        **{name: trial.run.number(name) for name in (*_SUMMARY, "wall_s")},
        **_phases(trial),
        **{name: use(trial.run.curve.end) for name, use in RESOURCES.items()},
        **{f"at_equal_{name}": trial.at_equal.get(use) for use, name in _AT_EQUAL.items()},
    }


def _phases(trial: MethodRun) -> dict[str, float | None]:
    """Accuracy after each phase; of runs of older versions after the one that they report."""
    found = {name: trial.run.number(name) for name in PHASES}
    told = f"{(trial.run.summary or {}).get('phase', 'trained')}_accuracy_mean"
    return found if found.get(told) is not None else found | {told: trial.run.accuracy}


def _text(value: float | None) -> str:
    """Shortest text that gives the number back; whole numbers without a point."""
    if value is None:
        return ""
    return str(int(value)) if value == int(value) else repr(value)
