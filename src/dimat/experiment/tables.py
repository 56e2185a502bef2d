"""Tables of results for the terminal: of a run, and of one agent by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from dimat.experiment.record.results import RunResult
from dimat.experiment.record.shown import columns_of, metric_of, rows_of, title_of
from dimat.metric import Metric
from dimat.text import counted

if TYPE_CHECKING:
    from dimat.experiment.record.results import SingleAgentResult


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
    metric = metric_of(result)
    table = Table(
        title=title_of(result),
        caption=_caption(result, metric),
        title_style="bold",
        box=box.SIMPLE_HEAD,
        min_width=74,
    )
    table.add_column("\nagent", justify="right")
    columns = columns_of(result)
    for own in columns:
        style = "bold" if (own.method, own.phase) == (result.main.method, "merged") else ""
        table.add_column(f"{own.method}\n{own.phase}", justify="right", style=style)
    *agents, mean = rows_of(columns, metric)
    for row in agents:
        table.add_row(*row)
    table.add_section()
    table.add_row(*mean)
    return table


def _caption(result: RunResult, metric: Metric) -> str:
    """The meaning of the columns, and the mean before round 1, if it was measured."""
    if not result.config.rounds:
        return "trained = after pre-training: there was no round"
    phases = "last round: trained = after local training, merged = right after merging"
    if result.config.agents == 1:
        phases = "last round: trained = after local training; one agent merges with nobody"
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
    early = result.merged_round is not None and result.merged_round != result.last_round
    when = f" in round {result.merged_round}" if early else ""
    table = Table(
        title=f"Agent {result.agent} after {counted(result.rounds, 'round')} · test "
        f"{metric.name.replace('_', ' ')} {merged}{unit} merged{when}, {trained}{unit} trained",
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
