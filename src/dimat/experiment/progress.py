"""How far a run has come, told while it goes on: in silence, or by a bar in the terminal."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars


class Progress(Protocol):
    """Told how a run is getting on; has no influence on it."""

    def stage(self, description: str, total: int) -> None:
        """A new stage of ``total`` steps begins; the one before it is over."""

    def advance(self, steps: int = 1) -> None:
        """That many steps of the stage are done."""

    def note(self, text: str) -> None:
        """A line of news, such as ``round 3  trained 91.2 %  merged 93.0 %``."""

    def close(self) -> None:
        """The run is over, well or not; may be called twice."""


class Silent:
    """A progress that shows nothing."""

    def stage(self, description: str, total: int) -> None:
        """Show nothing."""

    def advance(self, steps: int = 1) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class LiveProgress:
    """A progress that shows a bar on stderr, and notes above it.

    Only notes, if it is neither a terminal nor a notebook that can draw (with ipywidgets).

    Args:
        console: Where to show it; stderr if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._console.is_terminal or _draws_in_notebook(self._console)),
            redirect_stdout=sys.stdout.isatty(),  # what is printed into a file stays in there
            expand=True,
            transient=True,
        )
        self._task: TaskID | None = None

    def stage(self, description: str, total: int) -> None:
        """Start the bar again at 0 of ``total``."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total)
        self._progress.start()

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def _draws_in_notebook(console: Console) -> bool:
    return console.is_jupyter and find_spec("ipywidgets") is not None
