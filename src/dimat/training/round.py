"""The merge with which a round begins: exchange, match, mix, take over, recalibrate.

``dimat run`` calls it for all agents of a process, ``dimat agent`` and ``dimat.Agent`` for one
agent whose neighbors run in other processes. Each agent says what it brings, the method's
generators run over the transport, and each agent loads its result, moves its optimizer along and
recalibrates BatchNorm. What is exchanged, matched and mixed is the method's part: the paper's is
:meth:`dimat.methods.Dimat.merge`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, Protocol

from dimat.errors import ConfigError, StructureError, TrainingError, in_words, quoted
from dimat.exchange import Talk, Traffic, Transport
from dimat.exchange.precision import in_precision
from dimat.methods import Method, RoundContext, RoundResult
from dimat.state import check_same_structure


class RoundAgent(Protocol):
    """An agent as a round sees it: a ``LocalTrainer``, or a ``dimat.Agent``."""

    @property
    def index(self) -> int:
        """The agent's number, from 0."""

    @property
    def traffic(self) -> Traffic:
        """Counters of the agent's bytes, sent and received, and of its busy seconds."""

    def context(self, number: int) -> RoundContext:
        """The agent's state, graph, images and optimizer memory at the beginning of a merge.

        Args:
            number: The round, from 1.
        """

    def take_over(self, me: RoundContext, result: RoundResult) -> float:
        """Load the merged state, move the optimizer along, recalibrate BatchNorm.

        Args:
            me: The context that the agent brought to the merge.
            result: The result of the agent's merge.

        Returns:
            Seconds spent on taking over.
        """


Observe = Callable[[Sequence[RoundContext], Sequence[RoundResult]], None]


def merge_round(
    agents: Sequence[RoundAgent],
    method: Method,
    transport: Transport,
    number: int,
    *,
    precision: Literal["float32", "bfloat16"] = "float32",
    where: str = "",
    observe: Observe | None = None,
) -> list[RoundResult]:
    """The merge of one round, at the agents of this process.

    Args:
        agents: The agents of this process.
        method: The method by which all agents merge.
        transport: Carries messages between these agents and all others.
        number: The round, from 1.
        precision: Floating point format of the messages: float32 or bfloat16.
        where: Beginning of the message of an error: ``"wa, round 3, in the merge"``. If empty,
            errors go through unchanged.
        observe: Called with contexts and results, before any agent has taken its result over.

    Returns:
        The result of each agent, in the order of ``agents``; ``report.merge_s`` includes the
        seconds of taking over.

    Raises:
        TrainingError: If an agent's state is not finite, or, with ``where``, if anything fails.
    """
    contexts = [agent.context(number) for agent in agents]
    with _named(where, "a method's part"):  # exchange, match, mix
        talks = {me.agent: in_precision(_talk(method, me), precision) for me in contexts}
        found = transport.run(talks, {agent.index: agent.traffic for agent in agents})
        results = [_checked(method, me, found[me.agent]) for me in contexts]
    if observe is not None:
        observe(contexts, results)
    with _named(where, "taking it over"):  # load, move the optimizer along, recalibrate
        both = zip(agents, contexts, results, strict=True)
        spent = [agent.take_over(me, result) for agent, me, result in both]
    return [_with_seconds(result, own) for result, own in zip(results, spent, strict=True)]


def _talk(method: Method, me: RoundContext) -> Talk[RoundResult]:
    """The talk of a method's merge.

    Raises:
        ConfigError: If it is none.
    """
    talk = method.merge(me)
    if not isinstance(talk, Generator):
        raise ConfigError(
            f"{type(method).__name__}.merge is no generator, it gives what is {quoted(talk)}: it "
            "must yield its steps, as by 'theirs = yield from swap_states(me)'"
        )
    return talk


def _checked(method: Method, me: RoundContext, result: object) -> RoundResult:
    """What a merge returned.

    Raises:
        ConfigError: If it is no result, or has no state.
        StructureError: If its state is not like the agent's.
    """
    if not isinstance(result, RoundResult):
        raise ConfigError(
            f"{type(method).__name__}.merge returns what is {quoted(result)}: must return a "
            "RoundResult, such as RoundResult(state, disagreement=…)"
        )
    if not isinstance(result.state, Mapping):
        raise ConfigError(
            f"{type(method).__name__}.merge returns a state that is {quoted(result.state)}: must "
            "be a dict of the agent's entries by name, as its combiner gives it"
        )
    check_same_structure(me.state, result.state, "the merged state")
    return result


def _with_seconds(result: RoundResult, seconds: float) -> RoundResult:
    """The result with the seconds of taking over added to those of the merge."""
    report = result.report
    return replace(result, report=replace(report, merge_s=report.merge_s + seconds))


@contextmanager
def _named(where: str, what: str) -> Iterator[None]:
    """Prefix errors raised inside with the method and round (``where``) and the part (``what``)."""
    if not where:
        yield
        return
    try:
        with in_words(f"{where}: {what}", TrainingError):
            yield
    except StructureError as error:
        raise TrainingError(f"{where}: {error}") from error
