"""Messages arrive in order, are counted, and nobody waits in silence."""

from __future__ import annotations

import pytest
import torch

from dimat.exchange import Step, Talk, Traffic
from dimat.exchange.in_process import run_all


def ring_talk(agent: int, n: int, rounds: int) -> Talk[list[int]]:
    heard = []
    for k in range(rounds):
        message = {"x": torch.tensor([100 * agent + k])}
        before, after = (agent - 1) % n, (agent + 1) % n
        inbox = yield Step({after: message}, [before])
        heard.append(int(inbox[before]["x"]))
    return heard


def test_every_message_arrives_in_order_and_is_counted_on_both_sides() -> None:
    n, rounds = 5, 4
    traffic = [Traffic() for _ in range(n)]
    results = run_all([ring_talk(i, n, rounds) for i in range(n)], traffic)
    assert results == [[100 * ((i - 1) % n) + k for k in range(rounds)] for i in range(n)]
    assert all(t.sent_bytes == t.received_bytes == 8 * rounds for t in traffic)


def test_a_fast_sender_does_not_overtake_itself() -> None:
    def sender() -> Talk[None]:
        for k in range(3):
            yield Step({1: {"x": torch.tensor(k)}})

    def listener() -> Talk[list[int]]:
        yield Step()
        heard = []
        for _ in range(3):
            inbox = yield Step(hear=[0])
            heard.append(int(inbox[0]["x"]))
        return heard

    assert run_all([sender(), listener()], [Traffic(), Traffic()]) == [None, [0, 1, 2]]


def test_waiting_for_a_message_that_nobody_sends_fails_loudly() -> None:
    def deaf() -> Talk[None]:
        yield Step(hear=[1])

    def mute() -> Talk[None]:
        yield Step()

    with pytest.raises(AssertionError, match=r"agents \[0\] wait for messages that nobody sends"):
        run_all([deaf(), mute()], [Traffic(), Traffic()])
