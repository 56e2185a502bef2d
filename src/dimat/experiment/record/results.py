"""The results of a run: accuracies by method and agent, and the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dimat.exchange.tree import Tree
from dimat.experiment.config.config import RunConfig
from dimat.experiment.record.lines import Line
from dimat.experiment.record.shown import as_html, as_text, in_a_line
from dimat.experiment.record.summary import select
from dimat.metric import ACCURACY, Metric
from dimat.text import brief


@dataclass(frozen=True)
class AgentResult:
    """The final test accuracies of one agent, or values of its task's main metric.

    Args:
        agent: The agent's number, from 0.
        trained: Test accuracy after the last local training, a fraction in [0, 1].
        merged: Test accuracy right after the last merge, a fraction in [0, 1]; None if
            it never merged.
    """

    agent: int
    trained: float
    merged: float | None


def results_of(ends: Sequence[Line], rounds: int, metric: Metric) -> tuple[AgentResult, ...]:
    """The results of every agent in the last round.

    Args:
        ends: The lines of metrics of that round, and of any others.
        rounds: Number of the last round.
        metric: The main metric.
    """
    key = f"test_{metric.name}"
    merged = {x["agent"]: x[key] for x in select(ends, rounds, "merged")}
    return tuple(
        AgentResult(x["agent"], x[key], merged.get(x["agent"]))
        for x in select(ends, rounds, "trained")
    )


@dataclass(frozen=True)
class MethodResult:
    """The results of one method.

    Args:
        method: Registry name of the method.
        agents: The result of each agent, by number.
        summary: The content of ``summary.json``.
    """

    method: str
    agents: tuple[AgentResult, ...]
    summary: Mapping[str, object]

    __repr__ = brief

    @classmethod
    def of_tree(cls, tree: Tree) -> MethodResult:
        """The result from ``dataclasses.asdict`` of one, which another process sent."""
        agents = tuple(AgentResult(**own) for own in tree["agents"])
        return cls(tree["method"], agents, tree["summary"])


@dataclass(frozen=True)
class RunResult:
    """The results of a run.

    Args:
        config: The settings of the run.
        folder: The run folder.
        main: The result of ``config.method``.
        controls: The results of ``config.controls``, in their order.

    A shell shows it as a line, ``print`` and a notebook as a table: the main test metric of the
    task, by agent and in the mean, after the last local training and right after the last merge.
    :func:`dimat.report` makes a page of plots of it.
    """

    config: RunConfig
    folder: Path
    main: MethodResult
    controls: tuple[MethodResult, ...]

    __repr__ = in_a_line
    __str__ = as_text

    def _repr_html_(self) -> str:
        """The table of a notebook."""
        return as_html(self)


@dataclass(frozen=True)
class SingleAgentResult:
    """The results of one agent that ran in a process of its own.

    Args:
        agent: The agent's number, from 0.
        folder: The agent's run folder.
        rounds: Number of rounds that the agent took part in.
        trained: Test accuracy after the last training, a fraction in [0, 1].
        merged: Test accuracy right after the last merge, a fraction; None if it heard no neighbor.
        exchanged: Number of exchanges that counted, by neighbor.
        incidents: Number of incidents of each kind, by neighbor.
        metric: The main metric of its task.
        merged_round: The round of that merge; None if there was none.
        last_round: The last round; the number of rounds is less if the agent left some out.
    """

    agent: int
    folder: Path
    rounds: int
    trained: float
    merged: float | None
    exchanged: Mapping[int, int]
    incidents: Mapping[int, Mapping[str, int]]
    metric: Metric = ACCURACY
    merged_round: int | None = None
    last_round: int | None = None
