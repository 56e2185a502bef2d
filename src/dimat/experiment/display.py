"""What a user sees of a run: progress while it goes, a table when it is done."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from rich import box
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
from rich.table import Table

from dimat.experiment.result import MethodResult, RunResult
from dimat.state import counted

if TYPE_CHECKING:
    from dimat.experiment.apart import ApartResult

_MAX_AGENTS = 20


class Observer(Protocol):
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
    """An observer that shows nothing."""

    def stage(self, description: str, total: int) -> None:
        """Show nothing."""

    def advance(self, steps: int = 1) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class LiveProgress:
    """An observer that shows a bar on stderr, and notes above it.

    Only notes, if it is neither a terminal nor a notebook that can draw (with ipywidgets).

    Args:
        console: Where to show it; stderr if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress = Progress(
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


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal; a dash if there is none.

    >>> percent(0.9123), percent(None)
    ('91.2', '–')
    """
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def results_table(result: RunResult) -> Table:
    """Test accuracy in percent of every agent and on average, by method, trained and merged."""
    config = result.config
    table = Table(
        title=f"Test accuracy in % after {counted(config.rounds, 'round')} · "
        f"{config.agents} agents, {config.topology.name}, {config.data.split}",
        caption=_caption(result),
        title_style="bold",
        box=box.SIMPLE_HEAD,
        min_width=74,
    )
    table.add_column("\nagent", justify="right")
    columns = [c for method in (result.main, *result.controls) for c in _columns(method)]
    for method, phase, _ in columns:
        style = "bold" if (method, phase) == (result.main.method, "merged") else ""
        table.add_column(f"{method}\n{phase}", justify="right", style=style)
    _add_rows(table, [values for _, _, values in columns])
    return table


def _caption(result: RunResult) -> str:
    """What the columns are, and how well the agents did before round 1, if that was measured."""
    if not result.config.rounds:
        return "trained = after pre-training: there was no round"
    phases = "last round: trained = after local training, merged = right after merging"
    found = result.main.summary.get("start_accuracy_mean")
    if not isinstance(found, float):
        return phases
    return f"{phases}\nbefore round 1: {percent(found)} % on average"


def apart_table(result: ApartResult) -> Table:
    """What one agent came to: its accuracy, and how its exchanges with each neighbor went."""
    happened = sorted({what for own in result.incidents.values() for what in own})
    table = Table(
        title=f"Agent {result.agent} after {counted(result.rounds, 'round')} · test accuracy "
        f"{percent(result.merged)} % merged, {percent(result.trained)} % trained",
        caption="exchanged = counted at both ends; the others did not count",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        min_width=74,
    )
    for column in ("neighbor", "exchanged", *happened):
        table.add_column(column, justify="right")
    for j in sorted({*result.exchanged, *result.incidents}):
        own = result.incidents.get(j, {})
        table.add_row(
            str(j),
            str(result.exchanged.get(j, 0)),
            *(str(own.get(what, 0)) for what in happened),
        )
    return table


def _columns(result: MethodResult) -> list[tuple[str, str, list[float | None]]]:
    """Method, phase and accuracies of the columns of one method: one that never merges has one."""
    phases: dict[str, list[float | None]] = {
        "trained": [agent.trained for agent in result.agents],
        "merged": [agent.merged for agent in result.agents],
    }
    kept = {phase: values for phase, values in phases.items() if _mean(values) is not None}
    return [(result.method, phase, values) for phase, values in kept.items()]


def _add_rows(table: Table, columns: Sequence[Sequence[float | None]]) -> None:
    """A row an agent, and the mean; centralized has one agent."""
    agents = max(len(values) for values in columns)
    for agent in range(min(agents, _MAX_AGENTS)):
        own = [values[agent] if agent < len(values) else None for values in columns]
        table.add_row(str(agent), *map(percent, own))
    if agents > _MAX_AGENTS:
        table.add_row(*["…"] * (len(columns) + 1))
    table.add_section()
    table.add_row("mean", *(percent(_mean(values)) for values in columns))


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None
