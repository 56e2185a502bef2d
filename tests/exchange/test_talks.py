"""Talks of unlike length and shape: who hears what, what it weighs, what fails."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.graphs import connected_graphs

from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.state import num_bytes


def gossip(graph: nx.Graph[int], agent: int, rounds: int) -> Talk[list[dict[int, int]]]:
    """Tell every neighbor one's number and the time, and keep what is heard."""
    near = sorted(graph.neighbors(agent))
    heard = []
    for k in range(rounds):
        inbox = yield Step({j: {"x": torch.tensor(1000 * agent + k)} for j in near}, near)
        heard.append({j: int(message["x"]) for j, message in inbox.items()})
    return heard


@settings(max_examples=20, deadline=None)
@given(connected_graphs(), st.integers(0, 5))
def test_on_any_graph_each_hears_its_neighbors_messages_of_the_same_round(
    graph: nx.Graph[int], rounds: int
) -> None:
    n = len(graph)
    traffic = [Traffic() for _ in range(n)]
    results = run_all([gossip(graph, i, rounds) for i in range(n)], traffic)
    for i, heard in enumerate(results):
        near = sorted(graph.neighbors(i))
        assert heard == [{j: 1000 * j + k for j in near} for k in range(rounds)]
        assert traffic[i] == Traffic(8 * len(near) * rounds, 8 * len(near) * rounds)


def test_an_inbox_is_in_the_order_it_was_asked_for() -> None:
    def told(agent: int) -> Talk[list[int]]:
        others = [j for j in (2, 0, 1) if j != agent]
        inbox = yield Step({j: {} for j in others}, others)
        return list(inbox)

    assert run_all([told(i) for i in range(3)], [Traffic() for _ in range(3)]) == [
        [2, 1], [2, 0], [0, 1],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ({}, 0),
        ({"a": torch.zeros(3, 4)}, 48),
        ({"a": torch.zeros(3, 4).bfloat16(), "b": torch.tensor(7)}, 32),
        ({"a": torch.zeros(5, dtype=torch.uint8), "b": torch.zeros(0, 7)}, 5),
        ({"a": torch.zeros(1).expand(100)}, 400),  # what is sent, not what is stored
    ],
)  # fmt: skip
def test_a_message_weighs_the_bytes_of_its_tensors_on_both_sides(
    message: Message, size: int
) -> None:
    def sender() -> Talk[None]:
        yield Step({1: message, 2: message})

    def listener() -> Talk[None]:
        yield Step(hear=[0])

    traffic = [Traffic(7, 0), Traffic(), Traffic()]
    run_all([sender(), listener(), listener()], traffic)
    assert num_bytes(message) == size
    assert traffic == [Traffic(7 + 2 * size, 0), Traffic(0, size), Traffic(0, size)]


def test_talks_of_unlike_length_all_end_and_results_are_in_order_of_agents() -> None:
    def counted(steps: int) -> Talk[int]:
        for _ in range(steps):
            yield Step()
        return steps

    lengths = [5, 0, 2, 9, 1]
    assert run_all([counted(n) for n in lengths], [Traffic() for _ in lengths]) == lengths


def test_a_relay_waits_for_news_from_far_away() -> None:
    n = 6

    def passed_on(agent: int) -> Talk[int]:
        hops = 0
        if agent > 0:
            inbox = yield Step(hear=[agent - 1])
            hops = int(inbox[agent - 1]["hops"]) + 1
        yield Step({agent + 1: {"hops": torch.tensor(hops)}} if agent + 1 < n else {})
        return hops

    # started in the wrong order on purpose: agent 5 hears last, whoever is resumed first
    assert run_all([passed_on(i) for i in range(n)], [Traffic() for _ in range(n)]) == [*range(n)]


def test_mail_that_arrives_early_waits_in_order_until_it_is_asked_for() -> None:
    def eager() -> Talk[None]:
        for k in range(3):
            yield Step({1: {"x": torch.tensor(k)}})

    def late() -> Talk[list[int]]:
        for _ in range(6):
            yield Step()
        heard = []
        for _ in range(3):
            inbox = yield Step(hear=[0])
            heard.append(int(inbox[0]["x"]))
        return heard

    assert run_all([eager(), late()], [Traffic(), Traffic()]) == [None, [0, 1, 2]]


def test_two_who_wait_for_each_other_fail_loudly() -> None:
    def shy(other: int) -> Talk[None]:
        yield Step(hear=[other])
        yield Step({other: {}})

    with pytest.raises(AssertionError, match=r"agents \[0, 1\] wait for messages that nobody"):
        run_all([shy(1), shy(0)], [Traffic(), Traffic()])


def test_an_error_in_one_talk_ends_them_all_with_that_error() -> None:
    def broken() -> Talk[None]:
        yield Step()
        raise ValueError("agent 1 lost its data")

    def patient() -> Talk[None]:
        yield Step(hear=[0])

    with pytest.raises(ValueError, match="agent 1 lost its data"):
        run_all([broken(), patient()], [Traffic(), Traffic()])
