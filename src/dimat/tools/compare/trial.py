"""The runs of a cell, one for each method."""

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
    """The finished run of one method in one cell.

    Args:
        method: Registry name of the method.
        run: The run as it was recorded.
        at_equal: Accuracy at the cell's common budget, by resource; None where there is none.
    """

    method: str
    run: Run
    at_equal: Mapping[str, float | None]


def method_folders(folder: Path, cell: Cell) -> dict[str, Path]:
    """The run folder of every method of a cell, by method.

    Args:
        folder: Run folder of the cell.
        cell: The cell.
    """
    controls = {name: folder / "controls" / name for name in cell.config.controls}
    return {cell.config.method: folder, **controls}


def is_cell_finished(folder: Path, cell: Cell) -> bool:
    """Whether all methods of a cell are finished.

    Args:
        folder: Run folder of the cell.
        cell: The cell.
    """
    return all(is_finished(own) for own in method_folders(folder, cell).values())


def read_cell(folder: Path, cell: Cell) -> tuple[MethodRun, ...]:
    """The runs of a finished cell, in the order of its methods.

    Args:
        folder: Run folder of the cell.
        cell: The cell.

    Raises:
        RecordError: If a file cannot be read.
    """
    runs = {name: read_run(own) for name, own in method_folders(folder, cell).items()}
    equal = at_equal({name: run.curve for name, run in runs.items()})
    return tuple(MethodRun(name, run, equal[name]) for name, run in runs.items())
