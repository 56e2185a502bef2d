"""The progress of a comparison in the terminal: cells done, cells at work, time left."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column


class CellsProgress(Protocol):
    """A receiver of the progress of a comparison, which has no influence on it."""

    def begin(self, done: int, total: int) -> None:
        """A comparison begins.

        Args:
            done: Cells that were finished before.
            total: All cells.
        """

    def started(self, cell: str) -> None:
        """A cell begins.

        Args:
            cell: Name of the cell.
        """

    def stage(self, cell: str, text: str) -> None:
        """A running cell has made progress.

        Args:
            cell: Name of the cell.
            text: Its stage and steps, such as ``wa 3/20``.
        """

    def ended(self, cell: str, text: str) -> None:
        """A cell is finished, or has failed.

        Args:
            cell: Name of the cell.
            text: Its accuracies or its error, in a line.
        """

    def close(self) -> None:
        """The comparison is over, well or not."""


class SilentCells:
    """A progress that shows nothing."""

    def begin(self, done: int, total: int) -> None:
        """Show nothing."""

    def started(self, cell: str) -> None:
        """Show nothing."""

    def stage(self, cell: str, text: str) -> None:
        """Show nothing."""

    def ended(self, cell: str, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class LiveCells:
    """A progress that shows a bar on stderr, and a line above it for each cell that is done.

    Only the lines, if stderr is no terminal.

    Args:
        console: Console for bar and lines; stderr if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        one_line = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self._progress = Progress(
            TextColumn("cells"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False, style="dim", table_column=one_line),
            console=self._console,
            disable=not self._console.is_terminal,
            expand=True,
            transient=True,
        )
        self._bar: TaskID | None = None
        self._working: dict[str, str] = {}
        self._done, self._total = 0, 0

    def begin(self, done: int, total: int) -> None:
        """Start the bar, and print the number of cells that were finished before."""
        self._done, self._total = done, total
        self._bar = self._progress.add_task("", total=total, completed=done)
        self._progress.start()
        if done:
            self._print(f"{done} of {total} cells are finished already")

    def started(self, cell: str) -> None:
        """Show the name of the cell."""
        self.stage(cell, "")

    def stage(self, cell: str, text: str) -> None:
        """Show the name of the cell and its stage."""
        self._working[cell] = f"{cell} {text}".rstrip()
        self._describe()

    def ended(self, cell: str, text: str) -> None:
        """Advance the bar, and print a line above it."""
        self._working.pop(cell, None)
        self._done += 1
        if self._bar is not None:
            self._progress.advance(self._bar)
        self._describe()
        self._print(f"cell {self._done}/{self._total} {cell}: {text}")

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()

    def _describe(self) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, description=" | ".join(self._working.values()))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class CellProgress:
    """The progress of one cell's run, passed on to the progress of the comparison.

    Args:
        progress: Receives the stages of the cell.
        cell: Name of the cell.
    """

    def __init__(self, progress: CellsProgress, cell: str) -> None:
        self._progress, self._cell = progress, cell
        self._stage, self._steps, self._total = "", 0, 0

    def stage(self, description: str, total: int) -> None:
        """Pass the new stage on."""
        self._stage, self._steps, self._total = description, 0, total
        self._tell()

    def advance(self, steps: int = 1) -> None:
        """Pass the steps done on."""
        self._steps += steps
        self._tell()

    def note(self, text: str) -> None:
        """Pass nothing on: there are as many notes as rounds."""

    def close(self) -> None:
        """Pass nothing on: :func:`compare` reports the end of a cell itself."""

    def _tell(self) -> None:
        self._progress.stage(self._cell, f"{self._stage} {self._steps}/{self._total}")
