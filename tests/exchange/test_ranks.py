"""Ranks lose nothing, or say whom they lost; and leave nothing behind."""

from __future__ import annotations

import time

import pytest
import torch
from dimat.exchange.network.links import Links
from tests.exchange.test_transports import gossip, in_process, once, over_ranks
from tests.exchange.threads import HOST, LONG_S, board, closing, together, until

from dimat.errors import ExchangeError
from dimat.exchange import Step, Talk, Traffic
from dimat.exchange.network.link import Rules, Status
from dimat.exchange.ranks import Ranks


def test_in_other_processes_the_error_is_that_a_rank_is_lost() -> None:
    """Rank 0 fails; ranks 1 and 2, who wait for it and for each other, know it without waiting."""
    place, errors = board(), {}

    def rank(k: int) -> None:
        links = Links(k, place.another(), HOST, Rules(timeout_s=LONG_S), what="rank")
        transport = Ranks(links, 3, 3, patience_s=LONG_S)

        def talk() -> Talk[None]:
            others = [j for j in range(3) if j != k]
            yield Step({j: {} for j in others}, others)
            if k == 0:
                raise ValueError("agent 0 lost its data")
            yield Step({}, [k - 1])

        try:
            transport.run({k: talk()}, {k: Traffic()})
        except (ValueError, ExchangeError) as error:
            errors[k] = str(error)
        links.close()

    together([lambda k=k: rank(k) for k in range(3)])
    lost = "rank {} is lost: it said goodbye"
    assert errors == {0: "agent 0 lost its data", 1: lost.format(0), 2: lost.format(1)}


def test_ranks_of_unlike_settings_do_not_begin() -> None:
    place = board()

    def rank(k: int) -> None:
        links = Links(k, place.another(), HOST, Rules({"seed": str(k)}, 2), what="rank")
        try:
            Ranks(links, 2, 2, patience_s=LONG_S).run({k: gossip([1 - k], k, 1, 0)}, {k: Traffic()})
        finally:
            links.close()

    with pytest.raises(ExchangeError, match="rank . is lost: rank . has other settings: 'seed' is"):
        together([lambda: rank(0), lambda: rank(1)])


def test_a_rank_that_never_comes_is_waited_for_as_long_as_patience_says() -> None:
    links = Links(0, board(), HOST, Rules(timeout_s=0.3), what="rank")
    with pytest.raises(ExchangeError, match=r"ranks \[1\] have not come for 0.4 s .setting"):
        Ranks(links, 2, 2, patience_s=0.4).run({0: gossip([1], 0, 1, 0)}, {0: Traffic()})
    links.close()


@pytest.mark.parametrize("spoke", [False, True])
def test_a_rank_that_lives_is_waited_for_however_slow_it_is(spoke: bool) -> None:
    place = board()

    def rank(k: int) -> list[int]:
        def talk() -> Talk[list[int]]:
            if spoke:
                yield Step({1 - k: {}}, [1 - k])
            if k == 1:
                time.sleep(0.5)  # more than patience
            inbox = yield Step({1 - k: {"x": torch.tensor([k])}}, [1 - k])
            found: list[int] = inbox[1 - k]["x"].tolist()
            return found

        links = Links(k, place.another(), HOST, Rules(timeout_s=LONG_S), what="rank")
        with closing([links]):
            transport = Ranks(links, 2, 2, patience_s=0.2)
            until(lambda: links.to(1 - k).status is Status.UP)  # patience is for who never comes
            return transport.run({k: talk()}, {k: Traffic()})[k]

    assert together([lambda: rank(0), lambda: rank(1)]) == [[1], [0]]


def test_agents_that_nobody_can_answer_fail_loudly_in_a_block_as_in_one_process() -> None:
    def shy(other: int) -> Talk[None]:
        yield Step(hear=[other])

    for carry in (in_process, over_ranks(1)):
        with pytest.raises(AssertionError, match=r"agents \[0, 1\] wait for messages that nobody"):
            once(carry, [lambda: shy(1), lambda: shy(0)])
