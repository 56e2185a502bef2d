"""What a user sees of a comparison while it goes: cells done, cells at work, time left."""

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


class Watcher(Protocol):
    """Told how a comparison is getting on; has no influence on it."""

    def begin(self, done: int, total: int) -> None:
        """A comparison of ``total`` cells begins, of which ``done`` were finished before."""

    def started(self, cell: str) -> None:
        """A cell is at work."""

    def stage(self, cell: str, text: str) -> None:
        """What a cell at work does now, such as ``wa 3/20``."""

    def ended(self, cell: str, text: str) -> None:
        """A cell is finished, or has failed: what it came to, in a line."""

    def close(self) -> None:
        """The comparison is over, well or not."""


class Unwatched:
    """A watcher that shows nothing."""

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
    """A watcher that shows a bar on stderr, and the cells that are done above it.

    Where stderr is no terminal there is only a line for every cell that is done.

    Args:
        console: Where to show it; stderr if None.
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
        """Start the bar, and say what was finished before."""
        self._done, self._total = done, total
        self._bar = self._progress.add_task("", total=total, completed=done)
        self._progress.start()
        if done:
            self._print(f"{done} of {total} cells are finished already")

    def started(self, cell: str) -> None:
        """Name the cell."""
        self.stage(cell, "")

    def stage(self, cell: str, text: str) -> None:
        """Name the cell, and what it does."""
        self._working[cell] = f"{cell} {text}".rstrip()
        self._describe()

    def ended(self, cell: str, text: str) -> None:
        """Move the bar, and print a line above it."""
        self._working.pop(cell, None)
        self._done += 1
        if self._bar is not None:
            self._progress.advance(self._bar)
        self._describe()
        self._print(f"cell {self._done}/{self._total} {cell}: {text}")

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()

    def _describe(self) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, description=" | ".join(self._working.values()))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Within:
    """An observer of one cell's run, which passes on what it does now.

    Args:
        watcher: Told so.
        cell: The cell's name.
    """

    def __init__(self, watcher: Watcher, cell: str) -> None:
        self._watcher, self._cell = watcher, cell
        self._stage, self._steps, self._total = "", 0, 0

    def stage(self, description: str, total: int) -> None:
        """Pass on the stage."""
        self._stage, self._steps, self._total = description, 0, total
        self._tell()

    def advance(self, steps: int = 1) -> None:
        """Pass on how far it came."""
        self._steps += steps
        self._tell()

    def note(self, text: str) -> None:
        """Pass nothing on: there are as many notes as rounds."""

    def close(self) -> None:
        """Pass nothing on: the cell's end is told by who runs it."""

    def _tell(self) -> None:
        self._watcher.stage(self._cell, f"{self._stage} {self._steps}/{self._total}")
