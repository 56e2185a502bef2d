"""Two ends meet, whoever comes first and whoever was there before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
import torch
from tests.exchange.threads import HOST, LONG_S, board, together, until

from dimat.errors import ExchangeError
from dimat.exchange.network import meeting
from dimat.exchange.network.meeting import meet
from dimat.exchange.network.pipe import Broken, Pipe
from dimat.exchange.network.rendezvous import Directory, serve


def met(place: Directory, own: int, other: int, wait_s: float = 0.0) -> Pipe:
    """As a link does it: with a connection of its own, again if it did not succeed."""
    time.sleep(wait_s)
    own_board = place.another()
    while True:
        try:
            pipe = meet(own_board, own, other, HOST, lambda: True)
        except Broken:
            continue
        assert pipe is not None
        return pipe


def check_joined(low: Pipe, high: Pipe) -> None:
    """What each sends is what the other gets."""
    for one, other in [(low, high), (high, low)]:
        sent, got = torch.rand(5), torch.zeros(5)

        def take(pipe: Pipe = other, tensor: torch.Tensor = got) -> None:
            pipe.receive(tensor, LONG_S)

        def give(pipe: Pipe = one, tensor: torch.Tensor = sent) -> None:
            pipe.send(tensor, LONG_S)

        together([give, take])
        torch.testing.assert_close(got, sent, rtol=0, atol=0)


def pair(place: Directory, early: float = 0.0, late: float = 0.0) -> tuple[Pipe, Pipe]:
    low, high = together([lambda: met(place, 1, 4, early), lambda: met(place, 4, 1, late)])
    check_joined(low, high)
    return low, high


@pytest.mark.parametrize(("low_s", "high_s"), [(0, 0), (0.3, 0), (0, 0.3)])
def test_both_ends_meet_whoever_comes_first(low_s: float, high_s: float) -> None:
    pair(board(), low_s, high_s)


def test_they_meet_again_and_again_and_leave_no_more_keys_than_the_first_time() -> None:
    place = board()
    keys = []
    for _ in range(4):
        pair(place)
        keys.append(len(place.store().list_keys()))
    assert keys == [4] * 4  # a token, a name, and where each end is


@pytest.mark.parametrize("lost", ["low", "high"])
def test_an_end_that_comes_back_with_nothing_meets_the_one_that_noticed(lost: str) -> None:
    place = board()
    low, high = pair(place)
    (low if lost == "low" else high).close()
    left, seat = (high, 4) if lost == "low" else (low, 1)
    with pytest.raises(Broken):
        left.receive(torch.zeros(1), LONG_S)
    again = Directory(place.host, place.port, place.prefix)  # of a new process
    place, again = (place, again) if seat == 1 else (again, place)
    check_joined(*together([lambda: met(place, 1, 4), lambda: met(again, 4, 1)]))


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All names that were given to attempts; those in vain are short."""
    names, put = [], Directory.put

    def noted(self: Directory, key: str, value: str) -> None:
        if key.endswith("/name"):
            names.append(value)
        put(self, key, value)

    monkeypatch.setattr(meeting, "JOIN_S", 1.0)
    monkeypatch.setattr(Directory, "put", noted)
    return names


def test_a_token_that_a_dead_end_left_is_answered_once_and_then_never(named: list[str]) -> None:
    place = board()
    place.put("edge/1-4/token", "of-one-who-died")
    pair(place, late=0.5)
    assert [name.partition(".")[0] for name in named].count("of-one-who-died") == 1


def test_an_answer_that_a_dead_end_left_is_not_taken_for_one(named: list[str]) -> None:
    place = board()
    place.put("edge/1-4/name", "some-token.some-word")
    place.put("edge/1-4/token", "some-token")
    pair(place)
    assert [name.partition(".")[0] for name in named].count("some-token") == 1  # ours


def test_ends_of_two_runs_on_one_store_do_not_meet() -> None:
    one, two = board(), board()
    given_up = time.monotonic() + 0.5

    def alone(place: Directory, own: int, other: int) -> Callable[[], Pipe | None]:
        own_board = place.another()
        return lambda: meet(own_board, own, other, HOST, lambda: time.monotonic() < given_up)

    assert together([alone(one, 1, 4), alone(two, 4, 1)]) == [None, None]


def test_an_end_that_nobody_wants_any_more_stops_at_once() -> None:
    for own in (1, 4):
        assert meet(board(), own, 5 - own, HOST, lambda: False) is None


def test_many_edges_form_at_once_each_with_its_own_other_end() -> None:
    place, draw = board(), random.Random(3)
    ends = [(i, j) for i in range(4) for j in range(4) if i != j]
    waits = [draw.random() / 4 for _ in ends]
    works = [
        lambda i=i, j=j, s=s: met(place, i, j, s) for (i, j), s in zip(ends, waits, strict=True)
    ]
    pipes = dict(zip(ends, together(works), strict=True))
    for i, j in ends:
        if i < j:
            check_joined(pipes[i, j], pipes[j, i])


def test_a_store_that_is_gone_is_an_error_until_one_is_there_again() -> None:
    store = serve(HOST, 0)
    port = store.port
    place = Directory(HOST, port, "run")
    place.put("x", "1")
    assert (place.look("x"), place.look("y")) == ("1", None)
    del store
    with pytest.raises(ExchangeError, match=f"the store at {HOST}:{port} does not answer"):
        place.look("x")
    with pytest.raises(ExchangeError, match="does not answer"):
        place.local_address()
    again = serve(HOST, port)
    until(lambda: place.look("x") is None)
    place.put("x", "2")
    assert place.another().look("x") == "2"
    place.drop("x")
    assert place.look("x") is None
    assert place.local_address() == HOST
    del again
