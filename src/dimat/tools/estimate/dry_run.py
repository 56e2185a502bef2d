"""A dry run of a method: its own merges and steps, by stand-ins of all agents.

They have a narrow network of the run's parameter names, on the run's graph: who says what to whom
does not depend on the width. Bytes are then those of the run's network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from dimat.errors import TrainingError, in_words
from dimat.exchange import Message, Traffic
from dimat.exchange.in_process import InProcess
from dimat.exchange.precision import in_precision
from dimat.experiment.config.methods import make_method
from dimat.experiment.setup import Setup
from dimat.methods import RoundContext, RoundResult
from dimat.tools.estimate.model_cost import ModelFacts, model_facts
from dimat.tools.estimate.stand_in import StandIn
from dimat.topology import build_topology
from dimat.training.round import merge_round

_WIDTH = 0.125  # two channels of a ResNet's sixteen: units that can change places
_SAMPLE, _LEAST = 1200, 20  # times that stand for all where nothing repeats: by agents, at least


class _Entry(NamedTuple):
    """Structure of one entry of a message."""

    key: str
    dtype: torch.dtype
    shape: torch.Size

    @property
    def num_bytes(self) -> int:
        """Bytes of the entry."""
        return self.shape.numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Stage:
    """The network of a run, and a narrow one of the same parameter names.

    Args:
        setup: Setup of the run.
    """

    setup: Setup

    @cached_property
    def facts(self) -> ModelFacts:
        """Costs of the run's network."""
        return model_facts(self.setup)

    @cached_property
    def narrow(self) -> Setup:
        """The setup of the narrow network; of the run's, where a symmetry was given for that."""
        config = self.setup.config
        if self.setup.symmetry is not None or config.width <= _WIDTH:
            return self.setup
        return replace(self.setup, config=replace(config, width=_WIDTH))

    @cached_property
    def narrow_facts(self) -> ModelFacts:
        """Costs of the narrow network."""
        return model_facts(self.narrow)


@dataclass(frozen=True)
class Tally:
    """Counts of one round, or of one step.

    Args:
        sent: Bytes sent, by agent.
        mixed: Number of neighbors' states that were mixed in, by agent.
        compared: Number of those states whose units were compared, by agent.
        merged: Number of agents that merged.
        recalibrated: Number of agents that need new running statistics.
        answers: Number of gradients computed at other agents' networks.
    """

    sent: tuple[int, ...] = ()
    mixed: tuple[int, ...] = ()
    compared: tuple[int, ...] = ()
    merged: int = 0
    recalibrated: int = 0
    answers: int = 0


@dataclass(frozen=True)
class DryRun:
    """Counts of a whole run, from the rounds or steps that were played.

    Args:
        seen: Counts of the first rounds or steps.
        cycle: Number of the last ones in ``seen`` that take turns from there on.
        total: Number of rounds or steps of the run.
        last: Counts of the last round, where that lies beyond those.
    """

    seen: Sequence[Tally] = ()
    cycle: int = 1
    total: int = 0
    last: Tally | None = None

    def at(self, time: int) -> Tally:
        """Counts of a round or step, from 0."""
        if self.last is not None and time == self.total - 1:
            return self.last
        return self.seen[self._index(time)]

    def _index(self, time: int) -> int:
        start = len(self.seen) - self.cycle
        return time if time < start else start + (time - start) % self.cycle

    def sum(self, count: Callable[[Tally], int]) -> int:
        """A count, summed over all times."""
        often = Counter(map(self._index, range(self.total - (self.last is not None))))
        found = sum(count(self.seen[k]) * times for k, times in often.items())
        return found + (count(self.last) if self.last is not None else 0)

    def sent_bytes(self, agents: int) -> list[float]:
        """Bytes that each agent will have sent by the end, as ``metrics.jsonl`` counts them."""
        if not self.seen:
            return [0.0] * agents
        return [float(self.sum(lambda own, i=i: own.sent[i])) for i in range(agents)]  # type: ignore[misc]


def rehearse(stage: Stage, setup: Setup, name: str) -> DryRun:
    """Play the rounds or steps of a method until they repeat.

    Bytes are exact but for two things: of a graph that varies at random a sample of times stands
    for all, and what is refused is not foreseen.

    Args:
        stage: The networks.
        setup: Setup of the run, or of a pair of its agents.
        name: Registry name of the method.

    Raises:
        TrainingError: If the method fails.
    """
    play = _Play(stage, setup, name, stage.narrow)
    method, total = play.method, play.total
    if method.exchanges == "never" or setup.config.agents == 1 or not total:
        return DryRun()
    period = setup.topology.period
    random = period is None or method.in_pairs
    cycle = math.lcm(period or 1, method.period)
    most = cycle * max(_LEAST, _SAMPLE // setup.config.agents)
    seen: list[Tally] = []
    while len(seen) < min(total, most):
        seen.append(play.at(len(seen)))
        if not random and seen[-cycle:] == seen[-2 * cycle : -cycle]:
            break
    if len(seen) == total:
        return DryRun(seen, 1, total)
    last = play.at(total - 1) if method.exchanges == "rounds" else None
    turns = len(seen) - 1 if random else min(cycle, len(seen))
    return DryRun(seen, max(turns, 1), total, last)


class _Ledger(Traffic):
    """The traffic of a stand-in at one time: messages as to structure, and states that arrived."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names
        self.messages: list[list[_Entry]] = []
        self.states = 0

    def count_sent(self, message: Message) -> None:
        """Add a message on its way out."""
        self.messages.append([_Entry(k, v.dtype, v.shape) for k, v in message.items()])

    def count_received(self, message: Message) -> None:
        """Count a message that has a state in it."""
        found = {key.rpartition("/")[2] for key in message if key.count("/") in (0, 2)}
        self.states += all(name in found for name in self._names)


class _Play:
    """Stand-ins that do what a method does, with one network or the other."""

    def __init__(self, stage: Stage, setup: Setup, name: str, network: Setup) -> None:
        self.stage, self.setup, self.name, self.network = stage, setup, name, network
        self.method = make_method(setup.config, name)
        self.agents = [StandIn(i, setup, network) for i in range(setup.config.agents)]

    @property
    def total(self) -> int:
        """Rounds or steps of the run."""
        rounds = self.setup.config.rounds
        if self.method.exchanges == "rounds":
            return rounds
        return rounds * self.setup.round_steps(0, together=True)

    def at(self, time: int) -> Tally:
        """Counts of one round or step, played now."""
        tally = self.play(time)
        return replace(tally, sent=tuple(self._length(own) for own in self.ledgers))

    def play(self, time: int) -> Tally:
        """Counts without bytes; the messages are left in the ledgers."""
        names = list(self.stage.facts.gradient)
        self.ledgers = [_Ledger(names) for _ in self.agents]
        for agent, ledger in zip(self.agents, self.ledgers, strict=True):
            agent.traffic, agent.steps, agent.answers = ledger, time, 0
        return (self._round if self.method.exchanges == "rounds" else self._step)(time)

    def _round(self, time: int) -> Tally:
        results: list[RoundResult] = []

        def observe(_: Sequence[RoundContext], found: Sequence[RoundResult]) -> None:
            results.extend(found)

        merge_round(
            self.agents,
            self.method,
            InProcess(range(len(self.agents))),
            time + 1,
            precision=self.setup.config.exchange.precision,
            where=f"{self.name}, round {time + 1}, in a dry run",
            observe=observe,
        )
        merged = [own.mixed for own in results]
        anew = [a and not own.calibrated for a, own in zip(merged, results, strict=True)]
        mixed = [x.states * own for x, own in zip(self.ledgers, merged, strict=True)]
        matched = [own.report.match_s > 0 for own in results]
        topology = self.setup.topology.at(time)  # states that are mixed again are compared once
        first = [min(count, len(topology.neighbors(i))) for i, count in enumerate(mixed)]
        return Tally(
            mixed=tuple(mixed),
            compared=tuple(a * b for a, b in zip(first, matched, strict=True)),
            merged=sum(merged),
            recalibrated=sum(anew),
        )

    def _step(self, time: int) -> Tally:
        precision = self.setup.config.exchange.precision
        with in_words(f"{self.name}, step {time + 1}, in a dry run,", TrainingError):
            talks = {a.index: in_precision(self.method.step(a), precision) for a in self.agents}
            InProcess(range(len(talks))).run(talks, {a.index: a.traffic for a in self.agents})
        return Tally(answers=sum(agent.answers for agent in self.agents))

    # --- how long messages are ----------------------------------------------------------------

    def _length(self, ledger: _Ledger) -> int:
        return sum(self._bytes(entry) for message in ledger.messages for entry in message)

    def _bytes(self, entry: _Entry) -> int:
        """Bytes of an entry as it travels in the run, where it may be longer than here."""
        name = entry.key.rpartition("/")[2]  # of a weight, of what an optimizer remembers of it
        ours, theirs = self.stage.narrow_facts.state, self.stage.facts.state
        if name in ours and ours[name].shape == entry.shape:
            return theirs[name].numel() * entry.dtype.itemsize
        return self._others.get(entry, entry.num_bytes)

    @cached_property
    def _others(self) -> Mapping[_Entry, int]:
        """Entries that are no weights: two agents say them, of both networks side by side."""
        if self.stage.narrow is self.stage.setup:
            return {}
        said = [_of_a_pair(self.stage, self.name, own) for own in (self.network, self.stage.setup)]
        found = {}
        for narrow, wide in zip(*said, strict=False):
            lengths = {entry.key: entry.num_bytes for entry in wide}
            found.update({own: lengths.get(own.key, own.num_bytes) for own in narrow})
        return found


def _of_a_pair(stage: Stage, name: str, network: Setup) -> list[list[_Entry]]:
    """The entries of all messages of two agents, in order."""
    config = replace(stage.setup.config, agents=2, rounds=2)
    pair = replace(stage.setup, config=config, topology=build_topology("full", 2))
    play = _Play(stage, pair, name, network)
    times = range(2) if play.method.exchanges == "rounds" else range(2 * play.method.period)
    said = []
    for time in times:
        play.play(time)
        said += [message for own in play.ledgers for message in own.messages]
    return said
