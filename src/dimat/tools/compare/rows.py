"""``comparison.csv``: a row for every cell and method, in fractions, bytes and seconds."""

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


def to_csv(
    spec: Spec, cells: Sequence[Cell], method_runs: Mapping[str, Sequence[MethodRun]]
) -> str:
    """The text of ``comparison.csv``.

    Args:
        spec: The comparison.
        cells: All cells of the comparison.
        method_runs: The runs of every finished cell, a method each, by the cell's name.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["cell", *spec.grid, "seed", "method", "finished", *NUMBERS])
    for cell in cells:
        done = {method_run.method: method_run for method_run in method_runs.get(cell.name, ())}
        for method in spec.methods:
            own = done.get(method)
            point = [shown(value) for value in cell.point.values()]
            head = [cell.name, *point, cell.seed, method, "true" if own else "false"]
            numbers = {} if own is None else numbers_of(own)
            writer.writerow(head + [_text(numbers.get(name)) for name in NUMBERS])
    return file.getvalue()


def numbers_of(method_run: MethodRun) -> dict[str, float | None]:
    """The numbers of a run by column; None where they were not recorded.

    Args:
        method_run: The run of one method in one cell.
    """
    return {
        **{name: method_run.run.number(name) for name in (*_SUMMARY, "wall_s")},
        **_phases(method_run),
        **{name: use(method_run.run.curve.end) for name, use in RESOURCES.items()},
        **{f"at_equal_{name}": method_run.at_equal.get(use) for use, name in _AT_EQUAL.items()},
    }


def _phases(method_run: MethodRun) -> dict[str, float | None]:
    """Mean accuracy after each phase; for runs of older versions after the reported one only."""
    found = {name: method_run.run.number(name) for name in PHASES}
    told = f"{(method_run.run.summary or {}).get('phase', 'trained')}_accuracy_mean"
    return found if found.get(told) is not None else found | {told: method_run.run.accuracy}


def _text(value: float | None) -> str:
    """The shortest text of a number that reads back equal; whole numbers without a point."""
    if value is None:
        return ""
    return str(int(value)) if value == int(value) else repr(value)
