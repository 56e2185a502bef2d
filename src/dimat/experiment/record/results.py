"""What a run gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dimat.exchange.tree import Tree
from dimat.experiment.config.config import RunConfig
from dimat.experiment.record.lines import Line
from dimat.experiment.record.summary import select
from dimat.state import brief


@dataclass(frozen=True)
class AgentResult:
    """How well one agent's model does at the end.

    Args:
        agent: Its number, from 0.
        trained: Test accuracy after the last local training, a fraction in [0, 1].
        merged: Test accuracy right after the last merge, a fraction; None if it never merged.
    """

    agent: int
    trained: float
    merged: float | None


def results_of(history: Sequence[Line], rounds: int) -> tuple[AgentResult, ...]:
    """The results of the last round, one for each agent."""
    merged = {x["agent"]: x["test_accuracy"] for x in select(history, rounds, "merged")}
    return tuple(
        AgentResult(x["agent"], x["test_accuracy"], merged.get(x["agent"]))
        for x in select(history, rounds, "trained")
    )


@dataclass(frozen=True)
class MethodResult:
    """What one method came to.

    Args:
        method: Its name in the registry.
        agents: One result per agent, in their order.
        summary: What ``summary.json`` holds.
    """

    method: str
    agents: tuple[AgentResult, ...]
    summary: Mapping[str, object]

    __repr__ = brief

    @classmethod
    def of_tree(cls, tree: Tree) -> MethodResult:
        """What ``dataclasses.asdict`` gave, and another process sent."""
        agents = tuple(AgentResult(**own) for own in tree["agents"])
        return cls(tree["method"], agents, tree["summary"])


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Args:
        config: The settings it was run with.
        folder: The run folder.
        main: The result of ``config.method``.
        controls: The results of ``config.controls``, in their order.
    """

    config: RunConfig
    folder: Path
    main: MethodResult
    controls: tuple[MethodResult, ...]

    __repr__ = brief


@dataclass(frozen=True)
class SingleAgentResult:
    """What one agent came to.

    Args:
        agent: Its number.
        folder: Its run folder.
        rounds: Rounds that it took part in.
        trained: Test accuracy after its last training, a fraction.
        merged: Test accuracy right after its last merge; None if it never heard anybody.
        exchanged: How often an exchange with each neighbor counted.
        incidents: How often with each neighbor it did not, by what happened.
    """

    agent: int
    folder: Path
    rounds: int
    trained: float
    merged: float | None
    exchanged: Mapping[int, int]
    incidents: Mapping[int, Mapping[str, int]]
