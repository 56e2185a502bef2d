"""What the results of a run look like in a shell and in a notebook."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from dimat.metric import Metric
from dimat.tasks import TASKS
from dimat.text import counted

if TYPE_CHECKING:
    from dimat.experiment.record.results import MethodResult, RunResult

_MAX_AGENTS = 20


@dataclass(frozen=True)
class ResultColumn:
    """The main test metric of all agents by one method, in one phase of the last round.

    Args:
        method: Registry name of the method.
        phase: trained or merged.
        values: The metric by agent; None where it is not known.
    """

    method: str
    phase: str
    values: Sequence[float | None]

    @property
    def mean(self) -> float | None:
        """The mean over the agents whose value is known; None if no agent's is."""
        present = [value for value in self.values if value is not None]
        return statistics.fmean(present) if present else None


def columns_of(result: RunResult) -> list[ResultColumn]:
    """The columns of a table of results; a method without merges has one."""
    found = [own for method in (result.main, *result.controls) for own in _both(method)]
    return [own for own in found if own.mean is not None]


def _both(method: MethodResult) -> list[ResultColumn]:
    agents = method.agents
    return [
        ResultColumn(method.method, "trained", [own.trained for own in agents]),
        ResultColumn(method.method, "merged", [own.merged for own in agents]),
    ]


def rows_of(columns: Sequence[ResultColumn], metric: Metric) -> list[list[str]]:
    """The cells of a table by row: an agent each, of many the first, and their mean.

    Method centralized has one agent.
    """
    agents = max((len(own.values) for own in columns), default=0)
    rows = []
    for agent in range(min(agents, _MAX_AGENTS)):
        values = [own.values[agent] if agent < len(own.values) else None for own in columns]
        rows.append([str(agent), *map(metric.show, values)])
    if agents > _MAX_AGENTS:
        rows.append(["…"] * (len(columns) + 1))
    return [*rows, ["mean", *(metric.show(own.mean) for own in columns)]]


def metric_of(result: RunResult) -> Metric:
    """The metric that a table of results shows: the main one of the task."""
    return TASKS[result.config.task].metrics[0]


def title_of(result: RunResult) -> str:
    """What a table of results shows, in words."""
    config = result.config
    rounds = counted(config.rounds, "round")
    return (
        f"Test {metric_of(result).title} after {rounds} · {counted(config.agents, 'agent')}, "
        f"{config.topology.name}, {config.data.split}"
    )


def in_a_line(result: RunResult) -> str:
    """The means of a run, and its folder."""
    metric = metric_of(result)
    means = [f"{own.method} {own.phase} {metric.show(own.mean)}" for own in columns_of(result)]
    return f"RunResult({', '.join(means)}: mean test {metric.title}; folder {str(result.folder)!r})"


def as_text(result: RunResult) -> str:
    """A table of plain text, and the folder of the run."""
    columns = columns_of(result)
    heads = [["", *(own.method for own in columns)], ["agent", *(own.phase for own in columns)]]
    rows = [*heads, *rows_of(columns, metric_of(result))]
    widths = [max(len(row[k]) for row in rows) for k in range(len(columns) + 1)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    return "\n".join([title_of(result), *lines, f"run folder: {result.folder}"])


def as_html(result: RunResult) -> str:
    """A table of HTML, and the folder of the run."""
    columns = columns_of(result)
    heads = ["agent", *(f"{escape(own.method)}<br>{own.phase}" for own in columns)]
    head = "".join(f"<th>{own}</th>" for own in heads)
    body = "".join(
        f"<tr><th>{agent}</th>{''.join(f'<td>{own}</td>' for own in cells)}</tr>"
        for agent, *cells in rows_of(columns, metric_of(result))
    )
    return (
        f"<table><caption>{escape(title_of(result))}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table><p>run folder: <code>{escape(str(result.folder))}</code></p>"
    )
