"""The progress of a run while it goes on: the protocol, a silent one, and a bar in the terminal."""

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

from dimat.data.dataset import Tell


class Progress(Protocol):
    """A receiver of the progress of a run, which has no influence on the run."""

    def stage(self, description: str, total: int) -> None:
        """A new stage begins, and the one before it is over.

        Args:
            description: The stage in a few words.
            total: Steps of the stage, >= 0.
        """

    def advance(self, steps: int = 1) -> None:
        """More steps of the stage are done.

        Args:
            steps: Number of these steps, >= 0.
        """

    def note(self, text: str) -> None:
        """A line of news comes in.

        Args:
            text: The line, such as ``round 3  trained 91.2 %  merged 93.0 %``.
        """

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


def reading(progress: Progress) -> Tell:
    """A function that reports to the progress how many samples are read.

    Args:
        progress: Receives it.
    """

    def tell(new: int, total: int) -> None:
        if new == 0:
            progress.stage("reading images", total)
        progress.advance(new)

    return tell


class LiveProgress:
    """A progress that shows a bar on stderr, and notes above it.

    Only notes, if stderr is neither a terminal nor a notebook that can draw (with ipywidgets).

    Args:
        console: Console for bar and notes; stderr if None.
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
            redirect_stdout=sys.stdout.isatty(),  # output into a file is left alone
            expand=True,
            transient=True,
        )
        self._task: TaskID | None = None

    def stage(self, description: str, total: int) -> None:
        """Restart the bar at 0 of ``total``."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total)
        self._progress.start()

    def advance(self, steps: int = 1) -> None:
        """Advance the bar."""
        if self._task is not None:
            self._progress.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


def _draws_in_notebook(console: Console) -> bool:
    return console.is_jupyter and find_spec("ipywidgets") is not None
