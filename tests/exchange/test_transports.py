"""One conformance suite for every transport that loses nothing: a new one is an entry here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.exchange.forked import delay_transfers, on_ranks
from tests.laws.graphs import PAW, connected_graphs

from dimat.errors import ExchangeError, StructureError
from dimat.exchange import Inbox, Message, Step, Talk, Traffic
from dimat.exchange.in_process import InProcess
from dimat.exchange.torchrun import Torchrun
from dimat.state import State

Talks = Sequence[Callable[[], Talk[object]]]
Runs = Sequence[Talks]
Outcome = tuple[list[list[object]], list[Traffic]]
Carry = Callable[[Runs], Outcome]


def in_process(runs: Runs) -> Outcome:
    """All agents in one process."""
    agents = len(runs[0])
    traffic = [Traffic() for _ in range(agents)]
    transport = InProcess(range(agents))
    found = [
        transport.run({i: talks[i]() for i in range(agents)}, dict(enumerate(traffic)))
        for talks in runs
    ]
    return [[each[i] for i in range(agents)] for each in found], traffic


def over_ranks(size: int | None) -> Carry:
    """Blocks of agents on so many ranks, or each on its own, a process each."""

    def carry(runs: Runs) -> Outcome:
        agents = len(runs[0])

        def rank(own: Torchrun) -> tuple[list[Mapping[int, object]], Mapping[int, Traffic]]:
            transport = own.transport(agents)
            traffic = {i: Traffic() for i in transport.agents}
            every = [{i: talks[i]() for i in transport.agents} for talks in runs]
            return [transport.run(talks, traffic) for talks in every], traffic

        found = on_ranks(agents if size is None else size, rank)
        merged = [{i: x for own, _ in found for i, x in own[r].items()} for r in range(len(runs))]
        counted = {i: own for _, traffic in found for i, own in traffic.items()}
        return [[each[i] for i in range(agents)] for each in merged], [*counted.values()]

    return carry


TRANSPORTS: dict[str, Carry] = {
    "in process": in_process,
    "1 rank": over_ranks(1),
    "2 ranks": over_ranks(2),
    "3 ranks": over_ranks(3),
    "a rank an agent": over_ranks(None),
}
every = pytest.mark.parametrize("carry", TRANSPORTS.values(), ids=TRANSPORTS)
slowly = settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    delay_transfers(monkeypatch)


def once(carry: Carry, talks: Talks) -> tuple[list[object], list[Traffic]]:
    results, traffic = carry([talks])
    return results[0], traffic


# --- what arrives ---------------------------------------------------------------------------------


def gossip(near: Sequence[int], agent: int, rounds: int, seed: int) -> Talk[list[dict[int, int]]]:
    """Tell every neighbor one's number and the time, and keep what is heard; take one's time."""
    draw = np.random.default_rng([seed, agent])
    heard = []
    for k in range(rounds):
        time.sleep(draw.random() * 0.004)
        inbox = yield Step({j: {"x": torch.tensor(1000 * agent + k)} for j in near}, near)
        heard.append({j: int(message["x"]) for j, message in inbox.items()})
    return heard


@every
@slowly
@given(graph=connected_graphs(), seed=st.integers(0, 2**31))
def test_every_message_arrives_once_in_order_and_from_its_sender(
    carry: Carry, graph: nx.Graph[int], seed: int
) -> None:
    near = {i: sorted(graph.neighbors(i)) for i in graph}
    rounds = [4, 0, 3]
    runs = [[lambda i=i, k=k: gossip(near[i], i, k, seed) for i in near] for k in rounds]
    results, traffic = carry(runs)
    for own, length in zip(results, rounds, strict=True):
        for i in range(len(graph)):
            assert own[i] == [{j: 1000 * j + k for j in near[i]} for k in range(length)]
    for i in range(len(graph)):
        assert traffic[i] == Traffic(8 * 7 * len(near[i]), 8 * 7 * len(near[i]))


def averaged(near: Sequence[int], agent: int, rounds: int) -> Talk[State]:
    """A state of several types and layouts, mixed with those of all neighbors in each round."""
    generator = torch.Generator().manual_seed(agent)
    conv = torch.randn(3, 3, 3, 3, generator=generator)
    conv = conv.contiguous(memory_format=torch.channels_last)
    state = {
        "conv": conv,
        "fc": torch.randn(5, 7, generator=generator).t(),
        "half": torch.randn(9, generator=generator).bfloat16(),
        "double": torch.randn((), dtype=torch.float64, generator=generator),
        "steps": torch.tensor(agent),
    }
    for _ in range(rounds):
        inbox = yield Step(dict.fromkeys(near, state), near)
        state = {
            key: sum((message[key] for message in inbox.values()), start=value) / (1 + len(near))
            if value.is_floating_point()
            else value + sum(message[key].sum() for message in inbox.values())
            for key, value in state.items()
        }
        state["conv"] = torch.nn.functional.conv2d(state["conv"], conv, padding=1)[:, :3] + conv
    return state


@pytest.mark.parametrize("graph", [PAW, nx.star_graph(4)], ids=["paw", "star"])
def test_results_do_not_depend_on_the_transport_bit_for_bit(graph: nx.Graph[int]) -> None:
    talks = [lambda i=i: averaged(sorted(graph.neighbors(i)), i, 4) for i in range(len(graph))]
    expected, counted = once(in_process, talks)
    for name, carry in TRANSPORTS.items():
        found, traffic = once(carry, talks)
        assert traffic == counted, name
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            assert [x.stride() for x in ours.values()] == [x.stride() for x in theirs.values()]


@every
def test_an_inbox_is_in_the_order_it_was_asked_for(carry: Carry) -> None:
    def told(agent: int) -> Talk[list[int]]:
        others = [j for j in (2, 0, 1) if j != agent]
        inbox = yield Step({j: {} for j in others}, others)
        return list(inbox)

    found, _ = once(carry, [lambda i=i: told(i) for i in range(3)])
    assert found == [[2, 1], [2, 0], [0, 1]]


MESSAGES: list[tuple[Message, int]] = [
    ({}, 0),
    ({"a": torch.zeros(3, 4)}, 48),
    ({"a": torch.zeros(3, 4).bfloat16(), "b": torch.tensor(7)}, 32),
    ({"a": torch.zeros(5, dtype=torch.uint8), "b": torch.zeros(0, 7)}, 5),
    ({"a": torch.zeros(1).expand(100)}, 400),  # what is sent, not what is stored
]


@every
def test_a_message_weighs_the_bytes_of_its_tensors_on_both_sides(carry: Carry) -> None:
    def sender() -> Talk[None]:
        for message, _ in MESSAGES:
            yield Step({1: message, 2: message})

    def listener() -> Talk[list[Message]]:
        heard = []
        for _ in MESSAGES:
            inbox = yield Step(hear=[0])
            heard.append(inbox[0])
        return heard

    found, traffic = once(carry, [sender, listener, listener])
    total = sum(size for _, size in MESSAGES)
    assert traffic == [Traffic(2 * total, 0), Traffic(0, total), Traffic(0, total)]
    for heard in found[1:]:
        torch.testing.assert_close(heard, [dict(message) for message, _ in MESSAGES])


# --- talks of unlike shape ------------------------------------------------------------------------


@every
def test_talks_of_unlike_length_all_end_and_results_are_in_order_of_agents(carry: Carry) -> None:
    def counted(steps: int) -> Talk[int]:
        for _ in range(steps):
            yield Step()
        return steps

    lengths = [5, 0, 2, 9, 1]
    assert once(carry, [lambda n=n: counted(n) for n in lengths])[0] == lengths


@every
def test_a_relay_waits_for_news_from_far_away(carry: Carry) -> None:
    n = 6

    def passed_on(agent: int) -> Talk[int]:
        hops = 0
        if agent > 0:
            inbox = yield Step(hear=[agent - 1])
            hops = int(inbox[agent - 1]["hops"]) + 1
        yield Step({agent + 1: {"hops": torch.tensor(hops)}} if agent + 1 < n else {})
        return hops

    assert once(carry, [lambda i=i: passed_on(i) for i in range(n)])[0] == [*range(n)]


@every
def test_who_only_sends_is_heard_in_order_however_late(carry: Carry) -> None:
    def eager() -> Talk[None]:
        for k in range(20):
            yield Step({1: {"x": torch.tensor(k)}})

    def late() -> Talk[list[int]]:
        for _ in range(6):
            time.sleep(0.01)
            yield Step()
        heard = []
        for _ in range(20):
            inbox = yield Step(hear=[0])
            heard.append(int(inbox[0]["x"]))
        return heard

    assert once(carry, [eager, late])[0] == [None, [*range(20)]]


@every
def test_what_one_hears_another_does_not(carry: Carry) -> None:
    def star(agent: int) -> Talk[list[int]]:
        heard = []
        for k in range(3):
            if agent == 0:
                inbox = yield Step({j: {"x": torch.tensor(10 * j + k)} for j in (1, 2, 3)}, [3, 1])
            else:
                send = {0: {"x": torch.tensor(10 * agent + k)}} if agent != 2 else {}
                inbox = yield Step(send, [0])
            heard += [int(message["x"]) for message in inbox.values()]
        return heard

    found, _ = once(carry, [lambda i=i: star(i) for i in range(4)])
    heard_by_others = [[10 * i, 10 * i + 1, 10 * i + 2] for i in (1, 2, 3)]
    assert found == [[30, 10, 31, 11, 32, 12], *heard_by_others]


# --- what fails -----------------------------------------------------------------------------------


@every
def test_what_a_step_cannot_accept_ends_the_talk(carry: Carry) -> None:
    def picky() -> Talk[Inbox]:
        def admit(sender: int, message: Message) -> None:
            if sender == 1 and int(message["x"]) == 2:
                raise StructureError("agent 1 says 2")

        for _ in range(3):
            inbox = yield Step(hear=[1], admit=admit)
        return inbox

    def teller() -> Talk[None]:
        for k in range(3):
            yield Step({0: {"x": torch.tensor(k)}})

    with pytest.raises(StructureError, match="agent 1 says 2"):
        once(carry, [picky, teller])


@every
def test_an_error_in_one_talk_ends_them_all_before_patience_does(carry: Carry) -> None:
    def talk(agent: int) -> Talk[None]:
        others = [j for j in range(3) if j != agent]
        inbox = yield Step({j: {} for j in others}, others)
        if agent == 0:
            raise ValueError(f"agent 0 lost its data after {len(inbox)} messages")
        yield Step(hear=[agent - 1])

    with pytest.raises((ValueError, ExchangeError), match="agent 0 lost its data|rank . is lost"):
        once(carry, [lambda i=i: talk(i) for i in range(3)])
