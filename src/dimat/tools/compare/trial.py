"""What one method came to in one cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dimat.tools.compare.budget import at_equal
from dimat.tools.compare.spec import Cell
from dimat.tools.records.read import is_finished, read_run
from dimat.tools.records.run import Run


@dataclass(frozen=True)
class MethodRun:
    """One method in one cell, finished.

    Args:
        method: The method.
        run: What it left behind.
        at_equal: For each resource what it had reached with the smallest total of the cell.
    """

    method: str
    run: Run
    at_equal: Mapping[str, float | None]


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
    runs = {name: read_run(own) for name, own in method_folders(folder, cell).items()}
    equal = at_equal({name: run.curve for name, run in runs.items()})
    return tuple(MethodRun(name, run, equal[name]) for name, run in runs.items())
