"""``dimat compare``: run all cells of a comparison, and tabulate their results."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from dimat.errors import ConfigError, if_interrupted
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.validate import validate
from dimat.tools.compare.folder import ComparisonFolder, open_folder
from dimat.tools.compare.pool import CellJob, run_tasks
from dimat.tools.compare.progress import CellsProgress, SilentCells
from dimat.tools.compare.rows import csv_head, csv_rows
from dimat.tools.compare.spec import Cell, Spec, expand
from dimat.tools.compare.table import Point, legend_text, point_of, point_text, points_of
from dimat.tools.compare.trial import MethodRun, is_cell_finished, read_cell
from dimat.tools.format import spread_text
from dimat.tools.statistics import Spread

MOST_CELLS = 1000


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison.

    Args:
        spec: The comparison.
        folder: The comparison folder.
        points: Every grid point, with the numbers of its finished cells.
        failures: Error messages of failed cells, by the cell's name.
    """

    spec: Spec
    folder: Path
    points: tuple[Point, ...]
    failures: Mapping[str, str]


def compare(
    spec: Spec,
    out: Path,
    *,
    jobs: int = 1,
    yes: bool = False,
    progress: CellsProgress | None = None,
) -> Comparison:
    """Run all unfinished cells, and write the tables anew after each.

    Args:
        spec: The comparison.
        out: The comparison folder; one with the same comparison is continued.
        jobs: Cells to run at a time, >= 1.
        yes: Whether more than 1,000 cells are allowed.
        progress: Receives the progress of the comparison; nobody if None.

    Returns:
        The results of the comparison.

    Raises:
        ConfigError: If there are too many cells, or one has settings that cannot be run.
        RecordError: If the folder holds something else.
        Interrupted: On Ctrl-C; says how to continue.
    """
    progress = progress or SilentCells()
    if spec.num_cells > MOST_CELLS and not yes:
        raise ConfigError(f"that makes {spec.num_cells:,} cells: add --yes if they are wanted")
    if jobs < 1:
        raise ConfigError(f"setting 'jobs' is {jobs}: must be >= 1")
    cells = expand(spec)
    check(cells)
    with if_interrupted(lambda: _way_on(out)), open_folder(out, spec, cells) as folder:
        running = _ComparisonRun(spec, cells, folder, progress)
        running.read_finished()
        failures = running.run(jobs)
    return Comparison(spec, out, tuple(running.points), failures)


def _way_on(out: Path) -> str:
    if not (out / "comparison.yaml").is_file():
        return "no run was begun yet: the same command begins it"
    return f"what was recorded is kept in {out}: the same command goes on"


def check(cells: Iterable[Cell]) -> None:
    """Refuse cells whose settings no run can use, before anything runs.

    Args:
        cells: The cells of a comparison.

    Raises:
        ConfigError: Names the first such cell.
    """
    for cell in cells:
        try:
            validate(cell.config)
        except ConfigError as error:
            raise ConfigError(f"cell '{cell.name}': {error}") from None
        if cell.config.max_wall_s is not None:
            rule = "null: stop a comparison when you like, the same command goes on"
            raise broken_rule("max_wall_s", cell.config.max_wall_s, rule)


@dataclass
class _ComparisonRun:
    """A comparison while it runs.

    Files are written anew whenever a cell finishes, but of their parts only those of that cell and
    its grid point are made anew: else 500 cells would make 500 x 500 of them.

    Args:
        spec: The comparison.
        cells: The cells of the comparison.
        folder: The comparison folder.
        progress: Receives the progress of the comparison.
    """

    spec: Spec
    cells: tuple[Cell, ...]
    folder: ComparisonFolder
    progress: CellsProgress

    def __post_init__(self) -> None:
        self._method_runs: dict[str, tuple[MethodRun, ...]] = {}
        self._places = {cell.name: k for k, cell in enumerate(self.cells)}
        self.points: list[Point] = []
        self._texts: list[str] = []  # of every grid point
        self._rows: list[str] = []  # of every cell

    def read_finished(self) -> None:
        """Read the finished cells, and write the tables."""
        for cell in self.cells:
            self._read(cell)
        self.points = points_of(self.spec, self.cells, self._method_runs)
        self._texts = [point_text(point) for point in self.points]
        self._rows = [self._csv_rows(cell) for cell in self.cells]
        self._write()

    def run(self, jobs: int) -> dict[str, str]:
        """Run the cells that are not finished; returns the errors of failed ones, by name."""
        tasks = [self._task(cell) for cell in self.cells if cell.name not in self._method_runs]
        cells = {cell.name: cell for cell in self.cells}
        failures: dict[str, str] = {}
        self.progress.begin(len(self._method_runs), len(self.cells))
        try:
            with closing(run_tasks(tasks, jobs, self.progress)) as outcomes:
                for outcome in outcomes:
                    if outcome.error is None:
                        self._finished(cells[outcome.name])
                    else:
                        failures[outcome.name] = outcome.error
                    self.folder.note_error(outcome.name, outcome.details)
                    self.progress.ended(outcome.name, self._said(outcome.name, outcome.error))
        finally:
            self.progress.close()
        if len(self._method_runs) == len(self.cells):
            shutil.rmtree(self.folder.pretrained, ignore_errors=True)
        return failures

    def _task(self, cell: Cell) -> CellJob:
        out = str(self.folder.cell(cell))
        return CellJob(cell.name, replace(cell.config, out=out), self.folder.pretrained)

    def _read(self, cell: Cell) -> None:
        folder = self.folder.cell(cell)
        if is_cell_finished(folder, cell):
            self._method_runs[cell.name] = read_cell(folder, cell)

    def _finished(self, cell: Cell) -> None:
        """Read a cell that has just been run, and write the tables with it."""
        self._read(cell)
        place, seeds = self._places[cell.name], len(self.spec.seeds)
        point = place // seeds
        mates = self.cells[point * seeds : (point + 1) * seeds]
        self.points[point] = point_of(self.spec, mates, self._method_runs)
        self._texts[point] = point_text(self.points[point])
        self._rows[place] = self._csv_rows(cell)
        self._write()

    def _csv_rows(self, cell: Cell) -> str:
        return csv_rows(self.spec, cell, self._method_runs.get(cell.name, ()))

    def _write(self) -> None:
        legend = legend_text(self.spec.metric)
        self.folder.write("comparison.csv", csv_head(self.spec) + "".join(self._rows))
        self.folder.write("comparison.txt", "".join(self._texts) + legend)

    def _said(self, name: str, error: str | None) -> str:
        if error is not None:
            return f"failed: {error}"
        return "  ".join(
            f"{method_run.method} {_said(method_run)}" for method_run in self._method_runs[name]
        )


def _said(method_run: MethodRun) -> str:
    score, metric = method_run.run.score, method_run.run.metric
    unit = " %" if metric.percent else ""
    return spread_text(None if score is None else Spread(1, score, None), metric) + unit
