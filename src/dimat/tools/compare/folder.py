"""The comparison folder: all files of a comparison.

comparison.yaml   methods, seeds, grid and base settings, and their digest
comparison.csv    a row for every cell and method, written anew whenever a cell finishes
comparison.txt    the printed tables, written anew likewise
cells/NAME/       a run folder for every grid point and seed
pretrained/       agents after pre-training, shared by cells
errors/NAME.txt   the traceback of a failed cell
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from dimat.errors import ConfigError, RecordError, writing
from dimat.experiment.config.access import flat
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.parse import config_to_yaml, load_config
from dimat.experiment.recipe import recipe
from dimat.experiment.record.locks import HOLDER, LOCK, alone
from dimat.tools.compare.read import read_spec
from dimat.tools.compare.spec import Cell, Spec, difference, digest
from dimat.tools.compare.trial import method_folders

_SPEC = "comparison.yaml"


@dataclass(frozen=True)
class ComparisonFolder:
    """The folder that one comparison is written to.

    Args:
        path: The folder, which exists.
    """

    path: Path

    def cell(self, cell: Cell) -> Path:
        """The run folder of a cell.

        Args:
            cell: A cell of the comparison.
        """
        return self.path / "cells" / cell.name

    @property
    def pretrained(self) -> Path:
        """The folder of pre-trained agents that cells share; removed when all are finished."""
        return self.path / "pretrained"

    def write(self, name: str, text: str) -> None:
        """Write a file, whole or not at all.

        Args:
            name: Path of the file inside of the folder.
            text: Content of the file.

        Raises:
            WriteError: If the file cannot be written.
        """
        path = self.path / name
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f"{path.name}.partial")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)

    def note_error(self, cell: str, details: str) -> None:
        """Write the error of a cell, or remove that of an earlier try.

        Args:
            cell: Name of the cell.
            details: The traceback; empty if the cell has not failed.
        """
        path = self.path / "errors" / f"{cell}.txt"
        if details:
            self.write(f"errors/{cell}.txt", details)
        elif path.exists():
            with writing(path):
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()


@contextmanager
def open_folder(path: Path, spec: Spec, cells: Sequence[Cell]) -> Iterator[ComparisonFolder]:
    """Make a comparison folder, or open the existing one; it is locked against other processes.

    Args:
        path: The folder.
        spec: The comparison.
        cells: The cells of the comparison.

    Raises:
        RecordError: If the folder holds anything else, or another process is at work in it.
        ConfigError: If the folder cannot be written.
    """
    if _holds_something(path):
        _check_same(path, spec)
    folder = ComparisonFolder(path)
    check_cells(folder, cells)
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with alone(path, otherwise="another dimat compare is at work"):
        if not (path / _SPEC).exists():
            folder.write(_SPEC, spec_to_yaml(spec))
        yield folder


def spec_to_yaml(spec: Spec) -> str:
    """The content of ``comparison.yaml``, which :func:`read_spec` reads as an equal comparison.

    Args:
        spec: The comparison.
    """
    grid = {
        name: [list(value) if isinstance(value, tuple) else value for value in values]
        for name, values in spec.grid.items()
    }
    content = {
        "digest": digest(spec),
        "base": yaml.safe_load(config_to_yaml(spec.first)),
        "methods": list(spec.methods),
        "seeds": list(spec.seeds),
        "grid": grid,
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def check_cells(folder: ComparisonFolder, cells: Sequence[Cell]) -> None:
    """Refuse run folders of other cells or with other settings than those of the comparison.

    Args:
        folder: The comparison folder.
        cells: The cells of the comparison.

    Raises:
        RecordError: Names the cell, and the first setting that differs.
    """
    here = folder.path / "cells"
    found = {path.name for path in here.iterdir() if path.is_dir()} if here.is_dir() else set()
    for name in sorted(found - {cell.name for cell in cells}):
        raise RecordError(f"'{here / name}' is no cell of this comparison: move it away")
    for cell in cells:
        main = cell.config
        expected = {main.method: main} | {
            name: replace(main, method=name, controls=()) for name in main.controls
        }
        for method, path in method_folders(folder.cell(cell), cell).items():
            _check_config(path / "config.yaml", expected[method], cell)


def _check_config(path: Path, expected: RunConfig, cell: Cell) -> None:
    if not path.is_file() or _is_written(path, expected):
        return
    way = "move its folder away, and the same command runs it again"
    try:
        found = flat(recipe(load_config(path)))
    except ConfigError as error:
        raise RecordError(f"cell '{cell.name}': {error}; {way}") from None
    for name, value in flat(recipe(expected)).items():
        if found[name] != value:
            raise RecordError(
                f"cell '{cell.name}' is not of this comparison: '{path}' has '{name}' "
                f"{found[name]!r}, not {value!r}; {way}"
            )


def _is_written(path: Path, expected: RunConfig) -> bool:
    """Whether a file is what is written for these settings, which is quicker than to parse it."""
    try:
        return path.read_bytes() == config_to_yaml(expected).encode()
    except OSError:
        return False


def _holds_something(path: Path) -> bool:
    """Whether a folder holds more than the files of a comparison that was stopped as it began."""
    if path.exists() and not path.is_dir():
        raise RecordError(f"setting 'out': '{path}' is a file: give a folder by --out")
    ours = {LOCK, HOLDER, f"{_SPEC}.partial"}
    return path.is_dir() and any(inside.name not in ours for inside in path.iterdir())


def _check_same(path: Path, spec: Spec) -> None:
    if not (path / _SPEC).is_file():
        raise RecordError(
            f"setting 'out': '{path}' exists and is no comparison (it lacks {_SPEC}): give another "
            "folder by --out"
        )
    if differs := difference(spec, read_spec(path / _SPEC)):
        raise RecordError(
            f"setting 'out': '{path}' holds another comparison: {differs}; give another folder by "
            "--out"
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"setting 'out': '{path}' cannot be written: {reason}") from error
