"""``comparison.csv``: a row for every cell and method, in fractions, bytes and seconds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from dimat.experiment.config.access import shown
from dimat.metric import Metric
from dimat.tools.compare.budget import RESOURCES
from dimat.tools.compare.spec import Cell, Spec
from dimat.tools.compare.trial import MethodRun

_PHASES = ("start", "merged", "trained")
_AT_EQUAL = {"sent_bytes": "bytes", "steps": "epochs", "busy_s": "time"}


def summary_columns(metric: Metric) -> tuple[str, ...]:
    """The columns that a summary has.

    >>> summary_columns(Metric("mse", higher_is_better=False))[1:4]
    ('test_mse_mean', 'test_mse_max', 'test_mse_std')
    """
    worst = "min" if metric.higher_is_better else "max"
    kinds = ("mean", worst, "std")
    return ("rounds", *(f"test_{metric.name}_{kind}" for kind in kinds), "best_round")


def phase_column(metric: Metric, phase: str) -> str:
    """The column of a metric's mean after a phase: start, merged or trained.

    >>> phase_column(Metric("accuracy"), "merged")
    'merged_accuracy_mean'
    """
    return f"{phase}_{metric.name}_mean"


def columns(metric: Metric) -> tuple[str, ...]:
    """All columns of numbers."""
    return (
        *summary_columns(metric),
        *(phase_column(metric, phase) for phase in _PHASES),
        *("sent_bytes", "steps", "busy_s", "wall_s"),
        *(f"at_equal_{name}" for name in _AT_EQUAL.values()),
    )


def csv_head(spec: Spec) -> str:
    """The first line of ``comparison.csv``.

    Args:
        spec: The comparison.
    """
    return _csv([["cell", *spec.grid, "seed", "method", "finished", *columns(spec.metric)]])


def csv_rows(spec: Spec, cell: Cell, method_runs: Sequence[MethodRun]) -> str:
    """The lines of one cell in ``comparison.csv``, one for each method.

    Args:
        spec: The comparison.
        cell: The cell.
        method_runs: The runs of the cell, a method each; none if it is not finished.
    """
    done = {method_run.method: method_run for method_run in method_runs}
    point = [shown(value) for value in cell.point.values()]
    rows = []
    for method in spec.methods:
        own = done.get(method)
        numbers = {} if own is None else numbers_of(own)
        head = [cell.name, *point, cell.seed, method, "true" if own else "false"]
        rows.append([*head, *(_text(numbers.get(name)) for name in columns(spec.metric))])
    return _csv(rows)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def numbers_of(method_run: MethodRun) -> dict[str, float | None]:
    """The numbers of a run by column; None where they were not recorded.

    Args:
        method_run: The run of one method in one cell.
    """
    run = method_run.run
    return {
        **{name: run.number(name) for name in (*summary_columns(run.metric), "wall_s")},
        **_phases(method_run),
        **{name: use(run.curve.end) for name, use in RESOURCES.items()},
        **{f"at_equal_{name}": method_run.at_equal.get(use) for use, name in _AT_EQUAL.items()},
    }


def _phases(method_run: MethodRun) -> dict[str, float | None]:
    """Mean score after each phase; for runs of older versions after the reported one only."""
    run = method_run.run
    names = [phase_column(run.metric, phase) for phase in _PHASES]
    found = {name: run.number(name) for name in names}
    told = phase_column(run.metric, str((run.summary or {}).get("phase", "trained")))
    return found if found.get(told) is not None else found | {told: run.score}


def _text(value: float | None) -> str:
    """The shortest text of a number that reads back equal; whole numbers without a point."""
    if value is None:
        return ""
    return str(int(value)) if value == int(value) else repr(value)
