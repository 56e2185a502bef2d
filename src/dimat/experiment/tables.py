"""Tables of results for the terminal: of a run, and of one agent by itself."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from dimat.experiment.record.results import MethodResult, RunResult
from dimat.state import counted
from dimat.tasks import TASKS, Metric

if TYPE_CHECKING:
    from dimat.experiment.record.results import SingleAgentResult

_MAX_AGENTS = 20


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal; a dash for None.

    Args:
        fraction: The fraction, or None.

    >>> percent(0.9123), percent(None)
    ('91.2', '–')
    """
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def results_table(result: RunResult) -> Table:
    """Table of the main test metric, by agent and on average, by method and phase.

    Args:
        result: The results of a run.
    """
    config = result.config
    metric = TASKS[config.task].metrics[0]
    table = Table(
        title=f"Test {metric.title} after {counted(config.rounds, 'round')} · "
        f"{config.agents} agents, {config.topology.name}, {config.data.split}",
        caption=_caption(result, metric),
        title_style="bold",
        box=box.SIMPLE_HEAD,
        min_width=74,
    )
    table.add_column("\nagent", justify="right")
    columns = [c for method in (result.main, *result.controls) for c in _columns(method)]
    for method, phase, _ in columns:
        style = "bold" if (method, phase) == (result.main.method, "merged") else ""
        table.add_column(f"{method}\n{phase}", justify="right", style=style)
    _add_rows(table, [values for _, _, values in columns], metric)
    return table


def _caption(result: RunResult, metric: Metric) -> str:
    """The meaning of the columns, and the mean before round 1, if it was measured."""
    if not result.config.rounds:
        return "trained = after pre-training: there was no round"
    phases = "last round: trained = after local training, merged = right after merging"
    found = result.main.summary.get(f"start_{metric.name}_mean")
    if not isinstance(found, float):
        return phases
    unit = " %" if metric.percent else ""
    return f"{phases}\nbefore round 1: {metric.show(found)}{unit} on average"


def single_agent_table(result: SingleAgentResult) -> Table:
    """Table of one agent's main test metric, exchanges and incidents, by neighbor.

    Args:
        result: The results of the agent.
    """
    happened = sorted({what for own in result.incidents.values() for what in own})
    metric = result.metric
    merged, trained = (metric.show(own) for own in (result.merged, result.trained))
    unit = " %" if metric.percent else ""
    table = Table(
        title=f"Agent {result.agent} after {counted(result.rounds, 'round')} · test "
        f"{metric.name.replace('_', ' ')} {merged}{unit} merged, {trained}{unit} trained",
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
    """Method, phase and accuracies of each column of one method; without merges there is one."""
    phases: dict[str, list[float | None]] = {
        "trained": [agent.trained for agent in result.agents],
        "merged": [agent.merged for agent in result.agents],
    }
    kept = {phase: values for phase, values in phases.items() if _mean(values) is not None}
    return [(result.method, phase, values) for phase, values in kept.items()]


def _add_rows(table: Table, columns: Sequence[Sequence[float | None]], metric: Metric) -> None:
    """Add a row for each agent, and one of means; method centralized has one agent."""
    agents = max(len(values) for values in columns)
    for agent in range(min(agents, _MAX_AGENTS)):
        own = [values[agent] if agent < len(values) else None for values in columns]
        table.add_row(str(agent), *map(metric.show, own))
    if agents > _MAX_AGENTS:
        table.add_row(*["…"] * (len(columns) + 1))
    table.add_section()
    table.add_row("mean", *(metric.show(_mean(values)) for values in columns))


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None
