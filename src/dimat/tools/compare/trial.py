"""What one method came to in one cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dimat.tools.compare.budget import at_equal
from dimat.tools.compare.spec import Cell
from dimat.tools.records.history import is_finished, read_curve, read_summary
from dimat.tools.records.measured import Curve


@dataclass(frozen=True)
class MethodRun:
    """One method in one cell, finished.

    Args:
        cell: The cell.
        method: The method.
        summary: What ``summary.json`` holds.
        curve: What it reached with what.
        at_equal: For each resource what it had reached with the smallest total of the cell.
    """

    cell: Cell
    method: str
    summary: Mapping[str, object]
    curve: Curve
    at_equal: Mapping[str, float | None]

    def number(self, name: str) -> float | None:
        """A number of the summary; None if it has none of that name."""
        value = self.summary.get(name)
        return float(value) if isinstance(value, int | float) else None

    @property
    def accuracy(self) -> float | None:
        """Mean test accuracy over the agents in the last round, a fraction."""
        return self.number("test_accuracy_mean")


def method_folders(folder: Path, cell: Cell) -> dict[str, Path]:
    """The run folder of every method of a cell."""
    controls = {name: folder / "controls" / name for name in cell.config.controls}
    return {cell.config.method: folder, **controls}


def is_cell_finished(folder: Path, cell: Cell) -> bool:
    """Whether all methods of a cell came to their end."""
    return all(is_finished(own) for own in method_folders(folder, cell).values())


def read_cell(folder: Path, cell: Cell) -> tuple[MethodRun, ...]:
    """All methods of a finished cell, in their order.

    Raises:
        RecordError: If a file cannot be read.
    """
    folders = method_folders(folder, cell)
    curves = {name: read_curve(own) for name, own in folders.items()}
    equal = at_equal(curves)
    return tuple(
        MethodRun(cell, name, read_summary(own), curves[name], equal[name])
        for name, own in folders.items()
    )
