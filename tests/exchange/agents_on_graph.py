"""Agents on a graph that tell each other where they are, a thread each: for tests of what fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import networkx as nx
import pytest
import torch
from tests.exchange.threads import LISTEN, LONG_S, SOON_S, closing, together, until
from tests.laws.graphs import PAW

from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.network import neighborhood
from dimat.exchange.network.endpoint import Endpoint
from dimat.exchange.network.link import Link, Rules
from dimat.exchange.network.neighborhood import Incident, Neighborhood
from dimat.exchange.network.peers import FixedAddresses

Admit = Callable[[int, Message], None]
Heard = dict[int, tuple[int, ...]]


@dataclass
class GraphAgent:
    """An agent: what it heard in each of its rounds, of whom, and what did not count."""

    hood: Neighborhood
    agent: int
    near: Sequence[int]
    steps: int = 1
    heard: list[Heard] = field(default_factory=list)
    incidents: list[list[Incident]] = field(default_factory=list)
    ahead_s: float = 0.0  # of the time, in this round
    looks: int = 0  # at the clock
    traffic: Traffic = field(default_factory=Traffic)
    admit: Admit | None = None
    pause: Callable[[int], object] = lambda step: None
    """Done before each step of a round."""

    def play(self) -> Heard:
        """One round; the last of what each neighbor said of its rounds, step by step."""
        _playing[threading.get_ident()], self.ahead_s = self, 0.0
        heard = self.hood.run({self.agent: self._talk()}, {self.agent: self.traffic})[self.agent]
        self.heard.append(heard)
        self.incidents.append(self.hood.incidents)
        return heard

    def _talk(self) -> Talk[Heard]:
        heard: Heard = {}
        for step in range(self.steps):
            self.pause(step)
            own = {"x": torch.tensor([self.agent, len(self.heard), step])}
            inbox = yield Step(dict.fromkeys(self.near, own), self.near, self.admit)
            for j, message in inbox.items():
                sender, number, theirs = message["x"].tolist()
                assert (sender, theirs) == (j, step)
                assert heard.get(j, (number,))[0] == number
                heard[j] = (*heard.get(j, ()), number)
        return heard

    def link(self, j: int) -> Link:
        return self.hood._endpoint.to(j)

    @property
    def waits(self) -> bool:
        """Whether it has said what it has to say, and waits for others."""
        return self.hood._endpoint.waiting

    @property
    def last(self) -> dict[int, str]:
        """What did not count in the last round, by neighbor."""
        return {own.agent: own.what for own in self.incidents[-1]}

    def why(self, j: int) -> str:
        return next(own.why for own in self.incidents[-1] if own.agent == j)

    def pairs(self, j: int) -> set[tuple[int, int, int]]:
        """Our round, the step, and their round of all exchanges with a neighbor."""
        return {
            (k, step, theirs)
            for k, heard in enumerate(self.heard)
            for step, theirs in enumerate(heard.get(j, ()))
        }

    def die(self) -> None:
        """Go without a goodbye: as if the process was killed."""
        kill(self.hood._endpoint)


def kill(endpoint: Endpoint) -> None:
    """End an agent's endpoint without a goodbye: as if its process was killed."""
    endpoint._closing.set()
    links = endpoint.all().values()
    for link in links:
        link.reset("killed")
        if link.stream is not None:
            link.stream.cancel("killed")
    if endpoint._server is not None:
        endpoint._server.stop(None).wait()
    for _, channel in endpoint._channels.values():
        channel.close()
    until(lambda: all(link.stream is None for link in links))


AgentsOnGraph = dict[int, GraphAgent]
_playing: dict[int, GraphAgent] = {}  # by thread


def settle(
    agent: int,
    place: FixedAddresses,
    graph: nx.Graph[int] = PAW,
    terms: Mapping[str, str] | None = None,
    timeout_s: float = LONG_S,
    patience_s: float = LONG_S,
) -> GraphAgent:
    """One more agent."""
    rules = Rules(terms or {}, timeout_s)
    hood = Neighborhood(agent, place, LISTEN, None, rules, patience_s=patience_s)
    assert hood.address is not None
    place[agent] = hood.address
    villager = GraphAgent(hood, agent, sorted(graph.neighbors(agent)))
    hood.await_neighbors(villager.near, 0)
    return villager


@contextmanager
def agents_on_graph(
    graph: nx.Graph[int] = PAW,
    *,
    absent: Sequence[int] = (),
    terms: Mapping[int, Mapping[str, str]] | None = None,
    timeout_s: float = LONG_S,
    patience_s: float = LONG_S,
    place: FixedAddresses | None = None,
) -> Iterator[AgentsOnGraph]:
    """All agents of a graph, joined; in the end they say goodbye."""
    place = FixedAddresses() if place is None else place
    here = {
        i: settle(i, place, graph, (terms or {}).get(i), timeout_s, patience_s)
        for i in sorted(graph)
        if i not in absent
    }
    with closing([own.hood for own in here.values()]):
        if not terms:
            joined(here)
        yield here
        check_accounts(here)


def joined(here: AgentsOnGraph) -> None:
    """Wait until all edges between those who are here have formed, at both ends."""
    for own in here.values():
        near = [j for j in own.near if j in here]
        until(lambda own=own, near=near: not own.hood.await_neighbors(near, SOON_S))


def play(here: AgentsOnGraph, *, without: Sequence[int] = ()) -> None:
    """One round of all, at once."""
    together([own.play for i, own in here.items() if i not in without])


class Clock:
    """What each agent takes for the time: tests let patience end, and no machine does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = SimpleNamespace(monotonic=self._now, perf_counter=time.perf_counter)
        monkeypatch.setattr(neighborhood, "time", own)

    def _now(self) -> float:
        own = _playing.get(threading.get_ident())
        if own is None:
            return time.monotonic()
        own.looks += 1
        return time.monotonic() + own.ahead_s

    def skip(self, own: GraphAgent, seconds: float = LONG_S) -> None:
        """Let so much time pass for one who waits, and wait until it has seen that."""
        until(lambda: own.waits)
        before, own.ahead_s = own.looks, own.ahead_s + seconds + 1
        with own.hood._endpoint.changed:
            own.hood._endpoint.changed.notify_all()
        until(lambda: own.looks > before + 1 or not own.waits)


def edges_used(here: AgentsOnGraph) -> set[tuple[int, int]]:
    """Edges on which both ends exchanged in their last rounds, the lower first."""
    ends = {(i, j) for i, own in here.items() for j in own.heard[-1]}
    return {(i, j) for i, j in ends if i < j and (j, i) in ends}


def check_accounts(here: AgentsOnGraph) -> None:
    """What one end exchanged the other did too, but for what was recorded as one-sided."""
    for i, own in here.items():
        for j in (j for j in own.near if j in here and j > i):
            other = here[j]
            ours = own.pairs(j)
            theirs = {pair[::-1] for pair in other.pairs(i)}
            assert len(ours - theirs) == one_sided(other, i), (i, j, ours ^ theirs)
            assert len(theirs - ours) == one_sided(own, j), (i, j, ours ^ theirs)
            numbers = sorted(ours | theirs)
            assert numbers == sorted(numbers, key=lambda x: (x[2], x[1])), "out of order"


def one_sided(own: GraphAgent, j: int) -> int:
    """How many exchanges a neighbor counted alone, as recorded."""
    return sum(
        int(x.why.split()[2])
        for each in own.incidents
        for x in each
        if x.agent == j and x.what == "one-sided"
    )
