"""Each fault hits its own edges alone, is recorded, and is over when the edge has formed anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from typing import Any

import networkx as nx
import pytest
import torch
from tests.exchange.agents_on_graph import (
    AgentsOnGraph,
    Clock,
    GraphAgent,
    agents_on_graph,
    edges_used,
    joined,
    play,
    settle,
)
from tests.exchange.threads import LISTEN, LONG_S, SOON_S, closing, together, until

from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.network.link import Rules, Status
from dimat.exchange.network.neighborhood import Incident, Neighborhood
from dimat.exchange.network.peers import FixedAddresses
from dimat.exchange.wire import Frame, Kind
from dimat.state import check_finite

ALL = {(0, 1), (0, 2), (1, 2), (2, 3)}
WITHOUT_3 = ALL - {(2, 3)}
WITHOUT_2 = {(0, 1)}
PAIR: nx.Graph[int] = nx.Graph([(0, 1)])
MESSAGE_BYTES = 24
GIVEN_UP = f"nothing for {LONG_S:g} s, though it lives"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Unhurried(Rules):
    """Who was given up is waited for as long as it takes: it has come, and is only slow."""

    beat_s = LONG_S  # type: ignore[assignment]


def is_unhurried(here: AgentsOnGraph) -> None:
    for own in here.values():
        own.hood._endpoint.rules = Unhurried(timeout_s=LONG_S)


def check_quiet(here: AgentsOnGraph) -> None:
    """One more round, in which nothing is amiss."""
    joined(here)
    play(here)
    assert edges_used(here) == {(i, j) for i, j in ALL if i in here and j in here}
    assert all(own.last == {} for own in here.values())


def test_where_nothing_fails_every_edge_carries_every_round_and_all_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait, awaited = Neighborhood._wait, []

    def watched(self: Neighborhood, halves: Any) -> None:
        awaited.append(any(half.awaits for half in halves.values()))
        wait(self, halves)

    monkeypatch.setattr(Neighborhood, "_wait", watched)
    with agents_on_graph() as here:
        for k in range(5):
            play(here)
            for own in here.values():
                assert own.heard[-1] == dict.fromkeys(own.near, (k,))
                assert own.last == {}
        assert all(awaited)  # nobody sleeps on after the last answer: that costs up to a second
        for own in here.values():
            size = 5 * MESSAGE_BYTES * len(own.near)
            assert own.traffic == Traffic(size, size)


def test_a_neighbor_that_came_and_went_before_anybody_looked_is_not_waited_for() -> None:
    def waits(timeout: float) -> None:
        raise AssertionError("it waits")

    with agents_on_graph(PAIR) as here:
        here[0].hood.close()
        until(lambda: here[1].link(0).status is Status.LEFT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(here[1].hood._endpoint.changed, "wait", waits)
            assert here[1].hood.await_neighbors([0], SOON_S) == [0]


def test_a_neighbor_that_never_came_is_not_waited_for() -> None:
    with agents_on_graph(absent=[3]) as here:
        assert here[2].hood.await_neighbors([0, 1, 3], 0.2) == [3]
        for _ in range(2):
            play(here)
            assert edges_used(here) == WITHOUT_3
            assert here[2].last == {3: "lost"}
            assert here[2].why(3) == "not connected yet"


def test_one_that_comes_late_is_taken_up_in_the_next_round() -> None:
    place = FixedAddresses()
    with agents_on_graph(absent=[3], place=place) as here:
        play(here)
        here[3] = settle(3, place)
        check_quiet(here)
        here.pop(3).hood.close()


@pytest.mark.parametrize("dies", [2, 3])
def test_one_that_is_killed_mid_round_is_lost_at_once_and_back_when_it_is_back(dies: int) -> None:
    place = FixedAddresses()
    with agents_on_graph(place=place) as here:
        play(here)
        rest = {i: own for i, own in here.items() if i != dies}
        dead = here.pop(dies)

        def killed() -> None:
            until(lambda: all(rest[j].waits for j in dead.near))  # for it
            dead.die()

        together([lambda: play(rest), killed])
        assert edges_used(rest) == (WITHOUT_2 if dies == 2 else WITHOUT_3)
        for own in rest.values():
            assert own.last == ({dies: "lost"} if dies in own.near else {})
        here[dies] = settle(dies, place)
        check_quiet(here)
        here.pop(dies).hood.close()  # it had a past that we do not know


def test_one_that_says_goodbye_has_left_and_nobody_waits() -> None:
    with agents_on_graph() as here:
        play(here)
        here.pop(3).hood.close()
        until(lambda: here[2].link(3).status is Status.LEFT)
        play(here)
        assert edges_used(here) == WITHOUT_3
        assert here[2].last == {3: "left"}


def test_what_was_said_before_a_goodbye_still_counts() -> None:
    """Agent 0 looks for the answer to what it said when 1 has left already."""
    with agents_on_graph(PAIR) as here:
        link, post = here[0].link(1), here[0].link(1).post

        def slow(frame: Frame, epoch: int | None = None) -> None:
            post(frame, epoch)
            if frame.kind is Kind.ACCEPT:
                until(lambda: link.status is Status.LEFT)

        def last_round() -> None:
            here[1].play()
            here[1].hood.close()

        link.post = slow  # type: ignore[method-assign]
        together([here[0].play, last_round])
        assert here[0].heard == [{1: (0,)}]


def test_one_that_is_slow_but_alive_is_waited_for_longer_than_silence_would_be() -> None:
    """Twenty signs of life are due in what would be silence."""
    with agents_on_graph(timeout_s=2.0) as here:
        here[2].pause = lambda step: time.sleep(3)
        play(here)
        assert edges_used(here) == ALL
        assert all(own.last == {} for own in here.values())


def counted(own: GraphAgent, others: Collection[int]) -> bool:
    """Whether an agent is done with others in this round."""
    return own.waits and {own.link(j) for j in others} <= {*own.hood._counted}


def gives_up(clock: Clock, here: AgentsOnGraph, i: int, j: int) -> None:
    """A round without one neighbor of an agent, which waits for it until its patience ends."""

    def patience_ends() -> None:
        until(lambda: counted(here[i], {*here[i].near} - {j}))
        clock.skip(here[i])

    together([lambda: play(here, without=[j]), patience_ends])


def test_one_that_lives_and_says_nothing_is_lost_when_patience_ends_and_no_longer(
    clock: Clock,
) -> None:
    with agents_on_graph() as here:
        gives_up(clock, here, 2, 3)
        assert edges_used({i: here[i] for i in (0, 1, 2)}) == WITHOUT_3
        assert here[2].last == {3: "lost"}
        assert here[2].why(3) == GIVEN_UP
        joined_again(here, 2, 3)
        is_unhurried(here)
        for _ in range(2):
            check_quiet(here)


def test_one_that_hangs_costs_patience_once_and_is_taken_up_as_soon_as_it_speaks(
    clock: Clock,
) -> None:
    with agents_on_graph() as here:
        gives_up(clock, here, 2, 3)
        for _ in range(3):
            joined_again(here, 2, 3)
            play(here, without=[3])  # patience, which does not end by itself, is not needed
            assert here[2].last == {3: "lost"}
            assert here[2].why(3) == "it has said nothing since it was given up"
        is_unhurried(here)
        for _ in range(2):
            check_quiet(here)


def test_two_who_have_given_each_other_up_are_together_again_in_the_next_round(
    clock: Clock,
) -> None:
    with agents_on_graph(PAIR) as here:
        for k in (0, 1):
            gives_up(clock, here, k, 1 - k)
            joined_again(here, 0, 1, k + 2)
        assert [own.last for own in here.values()] == [{1: "lost"}, {0: "lost"}]
        is_unhurried(here)
        play(here)
        assert edges_used(here) == {(0, 1)}


def test_a_message_beyond_the_limit_is_not_let_in_and_the_edge_forms_anew() -> None:
    place = FixedAddresses()
    rules = [Rules(timeout_s=LONG_S, limit_bytes=limit) for limit in (8, 1 << 20)]
    hoods = [Neighborhood(i, place, LISTEN, None, rules[i], patience_s=LONG_S) for i in (0, 1)]
    place[0] = str(hoods[0].address)
    here = {i: GraphAgent(own, i, [1 - i]) for i, own in enumerate(hoods)}
    with closing(hoods):
        hoods[1].await_neighbors([0], 0)
        joined(here)
        play(here)
        assert here[0].why(1) == "a message of 24 bytes is refused: at most 8"
        assert edges_used(here) == set()
        joined_again(here, 0, 1)


def test_one_that_waits_for_another_is_not_given_up_for_that(clock: Clock) -> None:
    """Agent 0 of a line has waited for as long for 1 as 1 has for 2, which says nothing."""
    line: nx.Graph[int] = nx.path_graph(3)
    with agents_on_graph(line) as here:

        def patience_ends() -> None:
            until(lambda: len(here[0].heard) == 1 and here[0].waits and here[0].link(1).waits)
            until(lambda: counted(here[1], {0}))
            clock.skip(here[0])
            clock.skip(here[1])

        together([twice_of(here[0]), twice_of(here[1]), patience_ends])
        assert here[1].incidents[0] == [Incident(2, "lost", GIVEN_UP)]
        assert here[0].incidents == [[], []]


def joined_again(here: AgentsOnGraph, i: int, j: int, epoch: int = 2) -> None:
    """Wait until an edge has formed so often, at both ends."""
    for a, b in [(i, j), (j, i)]:
        until(lambda a=a, b=b: here[a].link(b).carries(max(here[a].link(b).epoch, epoch)))  # type: ignore[misc]


def test_one_that_is_frozen_is_lost_as_soon_as_its_beats_are_missed() -> None:
    with agents_on_graph() as here:
        near, far = here[2].link(3), here[3].link(2).stream
        assert far is not None
        far._beat_s = LONG_S
        near.rules = Rules(timeout_s=0.6)
        play(here, without=[3])
        assert here[2].last == {3: "lost"}
        assert here[2].why(3) == "no sign of life for 0.6 s"
        assert edges_used({i: here[i] for i in (0, 1, 2)}) == WITHOUT_3
        near.rules = Rules(timeout_s=LONG_S)
        are_together(here)
        check_quiet(here)


def are_together(here: AgentsOnGraph) -> None:
    """Rounds until all have come back to each other."""

    def all_used() -> bool:
        joined(here)
        play(here)
        return edges_used(here) == ALL

    until(all_used)


def test_what_may_not_be_used_is_refused_here_and_declined_there() -> None:
    def admit(j: int, message: Message) -> None:
        if j == 2:
            check_finite({"x": message["x"] / 0.0}, f"state from agent {j}")

    with agents_on_graph() as here:
        play(here)
        here[3].admit = admit
        play(here)
        assert edges_used(here) == WITHOUT_3
        assert (here[3].last, here[2].last) == ({2: "refused"}, {3: "declined"})
        reason = "state from agent 2: 'x' has 3 values that are NaN or infinite"
        assert here[3].why(2) == here[2].why(3) == reason
        assert here[0].last == here[1].last == {}
        size = 2 * MESSAGE_BYTES
        assert here[2].traffic == Traffic(3 * size, 3 * size)
        assert here[3].traffic == Traffic(size, MESSAGE_BYTES)  # what is refused is not counted
        here[3].admit = None
        check_quiet(here)


def test_what_was_changed_on_the_way_is_refused_once() -> None:
    def spoil(header: bytes, payload: torch.Tensor) -> tuple[bytes, torch.Tensor]:
        changed = payload.clone()
        changed[3] ^= 1
        return header, changed

    with agents_on_graph() as here:
        here[2].hood.tamper[0] = spoil
        play(here)
        assert edges_used(here) == ALL - {(0, 2)}
        assert (here[0].last, here[2].last) == ({2: "refused"}, {0: "declined"})
        assert "wrong checksum" in here[0].why(2)
        check_quiet(here)


@pytest.mark.parametrize(
    "header", [b"\xff", b"[" * 99999, b'{"said": {"step": 0}}', b'{"said": 3}']
)
def test_a_broken_header_is_refused_and_nothing_else_breaks(header: bytes) -> None:
    with agents_on_graph() as here:
        here[2].hood.tamper[0] = lambda _, payload: (header, payload)
        play(here)
        assert edges_used(here) == ALL - {(0, 2)}
        assert (here[0].last, here[2].last) == ({2: "refused"}, {0: "declined"})
        check_quiet(here)


def test_one_that_only_listens_hears_and_is_not_heard() -> None:
    with agents_on_graph() as here:
        here[3].hood.quiet = True
        play(here)
        assert here[3].heard[-1] == {2: (0,)}
        assert here[2].heard[-1].keys() == {0, 1}
        assert (here[3].last, here[2].last) == ({}, {3: "quiet"})
        here[3].heard[-1] = {}  # it is nobody's exchange
        here[3].hood.quiet = False
        check_quiet(here)
        here[2].hood.cut(3)
        joined_again(here, 2, 3)
        check_quiet(here)  # and so nothing was one-sided


def test_what_goes_along_is_heard_and_so_is_what_was_said_at_the_beginning() -> None:
    place = FixedAddresses()
    with agents_on_graph(PAIR, place=place) as here:
        assert here[0].hood.news().keys() == {1}
        assert "mood" not in here[0].hood.news()[1]
        here[1].hood.saying = {"mood": "good"}
        play(here)
        assert here[0].hood.heard[1]["mood"] == here[0].hood.news()[1]["mood"] == "good"
        here[1].hood.saying = {"mood": "better"}
        here[1].hood.cut(0)
        joined_again(here, 0, 1)
        assert here[0].hood.news()[1]["mood"] == "better"


def test_whose_settings_differ_is_not_talked_to_and_both_ends_say_why() -> None:
    terms = {i: {"rounds": "20"} for i in range(3)} | {3: {"rounds": "30"}}
    with agents_on_graph(terms=terms) as here:
        joined({i: own for i, own in here.items() if i != 3})
        until(lambda: here[2].link(3).status is here[3].link(2).status is Status.DIFFERS)
        play(here)
        assert edges_used(here) == WITHOUT_3
        assert here[2].why(3) == "agent 3 has other settings: 'rounds' is 30 there and 20 here"
        assert here[3].why(2) == "agent 2 has other settings: 'rounds' is 20 there and 30 here"


def swallow(own: GraphAgent, j: int, kind: Kind) -> None:
    """Lose what is next said of a kind to a neighbor, and cut the edge once our end has counted."""
    link, post = own.link(j), own.link(j).post

    def cut() -> None:
        until(lambda: link in own.hood._counted)
        own.hood.cut(j)

    def lossy(frame: Frame, epoch: int | None = None) -> None:
        if frame.kind is not kind:
            return post(frame, epoch)
        link.post = post  # type: ignore[method-assign]
        return threading.Thread(target=cut, daemon=True).start()

    link.post = lossy  # type: ignore[method-assign]


def test_what_one_end_alone_counted_is_recorded_when_the_edge_has_formed_anew() -> None:
    with agents_on_graph() as here:
        play(here)
        swallow(here[2], 3, Kind.ACCEPT)
        play(here)
        assert here[2].heard[-1].keys() == {0, 1, 3}
        assert (here[2].last, here[3].last) == ({}, {2: "unconfirmed"})
        joined_again(here, 2, 3)
        play(here)
        assert edges_used(here) == ALL
        assert (here[2].last, here[3].last) == ({}, {2: "one-sided"})
        assert here[3].why(2) == "it used 1 more of our messages than we of its"
        here[3].hood.cut(2)
        joined_again(here, 2, 3, 3)
        check_quiet(here)  # it is said once


def test_an_end_that_was_started_again_knows_nothing_of_what_was_counted() -> None:
    place = FixedAddresses()
    with agents_on_graph(PAIR, place=place) as here:
        for _ in range(3):
            play(here)
        here.pop(1).die()
        until(lambda: here[0].link(1).status is Status.DOWN)
        here[1] = settle(1, place, PAIR)
        joined(here)
        play(here)
        assert here[0].last == here[1].last == {}
        here.pop(1).hood.close()


def test_a_counted_exchange_is_in_what_is_told_even_before_the_round_is_over() -> None:
    """Agent 2 counts with 3 and waits for 0 while its edge to 3 breaks and forms anew."""
    with agents_on_graph() as here:
        here[0].pause = lambda step: joined_again(here, 2, 3)
        swallow(here[2], 3, Kind.ACCEPT)
        play(here)
        here[0].pause = lambda step: None
        assert here[2].link(3).epoch == 2
        assert here[3].last == {2: "unconfirmed"}
        play(here)
        assert here[3].last == {2: "one-sided"}


def test_two_who_miss_each_other_at_different_steps_are_in_step_in_the_next_round() -> None:
    with agents_on_graph() as here:
        for own in here.values():
            own.steps = 3
        play(here)
        endpoint, call = here[3].hood._endpoint, here[3].hood._endpoint._call

        def late(*args: Any) -> Any:  # when 2 is at its first step, and waits for others
            until(lambda: here[2].waits)
            return call(*args)

        endpoint._call = late  # type: ignore[method-assign]
        here[2].hood.cut(3)  # at its first step its edge is down ...
        for i in (0, 3):  # ... which lasts, and 3 begins, until it is up again
            here[i].pause = lambda step: joined_again(here, 2, 3) if step == 0 else None

        def twice() -> None:
            here[2].play()
            here[2].play()

        together([twice, twice_of(here[0]), twice_of(here[1]), here[3].play])
        assert here[3].heard[-1] == {2: (2, 2, 2)}
        assert 3 not in here[2].heard[1]
        assert here[2].heard[2][3] == (1, 1, 1)
        here[0].pause = here[3].pause = lambda step: None
        play(here)
        assert edges_used(here) == ALL
        assert here[0].heard[-1] == {1: (3, 3, 3), 2: (3, 3, 3)}


def twice_of(own: GraphAgent) -> Any:
    return lambda: (own.play(), own.play())


def test_a_one_way_edge_that_broke_at_a_later_step_is_in_step_again() -> None:
    def teller(rounds: int) -> Talk[None]:
        for step in range(3):
            yield Step({1: {"x": torch.tensor([rounds, step])}})

    def hearer() -> Talk[list[list[int]]]:
        found = []
        for _ in range(3):
            inbox = yield Step(hear=[0])
            found += [message["x"].tolist() for message in inbox.values()]
        return found

    with agents_on_graph(PAIR) as here:
        hoods = {i: own.hood for i, own in here.items()}

        def tell() -> None:
            for k in range(4):
                if k == 1:
                    hoods[0].run({0: one_less(teller(k))}, {0: Traffic()})
                else:
                    hoods[0].run({0: teller(k)}, {0: Traffic()})

        def hear() -> list[list[list[int]]]:
            return [hoods[1].run({1: hearer()}, {1: Traffic()})[1] for _ in range(2)]

        _, heard = together([tell, hear])
        assert heard == [[[0, 0], [0, 1], [0, 2]], [[1, 0], [1, 1], [2, 2]]]
        assert hoods[1].incidents == []


def one_less(talk: Talk[None]) -> Talk[None]:
    """A talk that ends before its last step."""
    yield next(talk)
    yield talk.send({})


def test_an_agent_is_followed_to_another_address_and_missed_only_by_edges_that_form() -> None:
    place = FixedAddresses()
    with agents_on_graph(place=place) as here:
        play(here)
        there, place[2] = place[2], "127.0.0.1:1"  # of nobody
        play(here)
        assert edges_used(here) == ALL
        here[2].hood.cut(3)
        until(lambda: here[3].link(2).status is Status.DOWN)
        play(here)
        assert edges_used(here) == WITHOUT_3
        place[2] = there
        joined_again(here, 2, 3)
        check_quiet(here)


def test_an_error_of_a_talk_is_its_own_and_the_next_round_is_well() -> None:
    def broken() -> Talk[None]:
        yield Step()
        raise ValueError("agent 2 lost its data")

    with agents_on_graph() as here:
        with pytest.raises(ValueError, match="agent 2 lost its data"):
            here[2].hood.run({2: broken()}, {2: Traffic()})
        check_quiet(here)


def test_a_talk_may_refuse_with_nothing_but_a_structure_error() -> None:
    def admit(j: int, message: Message) -> None:
        raise KeyError("our own mistake")

    with agents_on_graph(PAIR) as here:
        here[0].admit = admit

        def fails() -> None:
            try:
                here[0].play()
            finally:
                here[0].hood.close()

        with pytest.raises(KeyError, match="our own mistake"):
            together([fails, here[1].play])


def test_what_was_counted_and_not_used_after_all_comes_out_when_the_edge_has_formed_anew() -> None:
    with agents_on_graph() as here:
        play(here)
        here[2].hood.take_back()
        del here[2].heard[-1][3]
        here[2].hood.cut(3)
        joined_again(here, 2, 3)
        play(here)
        assert edges_used(here) == ALL
        assert (here[2].last, here[3].last) == ({3: "one-sided"}, {})
