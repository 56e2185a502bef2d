"""How far others are said to be is believed of most of them, and as far as the clock allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
from tests.test_presence import ORDER, OTHER, Hood, at

from dimat.agent.membership import Membership, MembershipStatus
from dimat.agent.pace import Pace
from dimat.exchange.network.neighborhood import Neighborhood

ROUNDS, ROUND_S, START_S = 3000, 10.0, 1e9


class Life:
    """One agent, a clock that a test sets, and neighbors that say what a test wants."""

    def __init__(self, kept: Mapping[str, Any] | None = None, now: float = START_S) -> None:
        self.now, self.news = now, dict[int, Mapping[str, Any]]()
        self.hood = Hood(self.news)
        self.own = Membership(cast(Neighborhood, self.hood), rounds=ROUNDS, clock=lambda: self.now)
        if kept is not None:
            self.own.restore(json.loads(json.dumps(kept)))
        self.done = 0

    def look(self, *said: int, empty_handed: bool = False, **more: Any) -> int:
        """What it goes on from where its neighbors say that they have done so many rounds."""
        self.news.clear()
        self.news.update({j: at(number, **more) for j, number in enumerate(said)})
        self.done = self.own.catch_up(self.done, ORDER, empty_handed=empty_handed)
        return self.done

    def round(self, *said: int, heard: bool = True, took_s: float = ROUND_S) -> int:
        """A round, from looking around to its end; what it has done then."""
        self.look(*said)
        self.hood.heard = self.news if heard else {}
        self.own.noticed()
        self.now += took_s
        self.done += 1
        return self.done


def settled(neighbors: int = 3, rounds: int = 20) -> Life:
    """An agent that has done so many rounds together with its neighbors."""
    life = Life()
    for number in range(rounds):
        assert life.round(*[number] * neighbors) == number + 1
    return life


@pytest.mark.parametrize("honest", [2, 3, 4])
@pytest.mark.parametrize("lie", [ROUNDS, ROUNDS - 1, 21, 0])
def test_one_liar_among_several_moves_nobody(honest: int, lie: int) -> None:
    life = settled(honest + 1)
    for number in range(20, 40):
        assert life.round(lie, *[number] * honest) == number + 1
    assert life.own.status is MembershipStatus.CURRENT


def test_of_two_neighbors_that_disagree_the_one_that_is_less_far_is_believed() -> None:
    life = settled(2)
    assert life.look(ROUNDS, 20) == 20
    life = Life()
    life.own.joined = True
    assert life.look(ROUNDS, 7) == 7


def test_one_voice_moves_an_agent_that_exchanges_with_it_a_tenth_faster_than_it_works() -> None:
    life = settled(1)
    own = 0
    while life.done < ROUNDS - 2:
        before = life.done
        life.round(ROUNDS)
        assert life.done <= before + 4
        own += 1
    assert own > 0.89 * ROUNDS


@pytest.mark.parametrize("voices", [1, 2, 3])
def test_no_voices_skip_the_last_round(voices: int) -> None:
    """Else an agent that has nothing ends with nothing, and its exit code is 0."""
    life = Life()
    life.look(*[ROUNDS - 1] * voices, empty_handed=True)
    assert life.done == (ROUNDS - 1 if voices > 1 else ROUNDS // 2)
    assert life.own.status is MembershipStatus.NEW
    assert life.look(*[ROUNDS - 1] * voices) < ROUNDS
    assert life.own.status is MembershipStatus.NEW  # it still has nothing
    assert life.done <= ROUNDS // 2 + 2 or voices > 1  # it has been there for no time at all


@pytest.mark.parametrize("voices", [1, 2, 3])
@pytest.mark.parametrize("empty_handed", [True, False])
def test_who_has_no_rounds_left_pulls_nobody(voices: int, empty_handed: bool) -> None:
    """It was started again, and goes; rounds without it are better than none."""
    life = Life()
    assert life.look(*[ROUNDS] * voices, empty_handed=empty_handed) == 0
    assert life.own.status is MembershipStatus.CURRENT
    assert life.look(*[ROUNDS] * voices, 7) == 7


def test_who_comes_late_goes_on_where_its_one_neighbor_is() -> None:
    life = Life()
    assert life.look(50, empty_handed=True) == 50
    assert life.own.status is MembershipStatus.NEW


@pytest.mark.parametrize("heard", [True, False])
def test_who_froze_goes_on_where_the_others_are(heard: bool) -> None:
    life = settled()
    life.round(20, 20, 20, heard=heard, took_s=100 * ROUND_S)
    assert life.round(120, 120, 121) == 121
    assert life.round(121, 121, 121) == 122


def test_who_froze_for_ten_rounds_does_not_believe_that_it_was_a_thousand() -> None:
    life = settled()
    life.round(20, 20, 20, took_s=10 * ROUND_S)
    assert life.look(1020, 1020, 1020) < 20 + 4 * 10 + 3


def test_who_was_apart_from_faster_ones_meets_them_again() -> None:
    """Alone it did a round where they did three; nothing of that shows on its own clock."""
    life = settled()
    for _ in range(30):
        life.round()
    assert life.done == 50
    assert life.round(110, 110, 110) == 111


def test_a_round_that_hung_does_not_change_its_pace() -> None:
    life = settled()
    life.round(20, 20, 20, took_s=100 * ROUND_S)
    life.round(21, 21, 21, heard=False)
    assert life.look(100, 100, 100) < 21 + 4 * 2 + 3


@pytest.mark.parametrize("away_s", [100 * ROUND_S, 1e7])
def test_who_was_killed_and_comes_back_goes_on_where_the_others_are(away_s: float) -> None:
    kept = settled().own.kept()
    life = Life(kept, START_S + 20 * ROUND_S + away_s)
    life.done = 20
    assert life.look(110, 110) == 110
    assert life.own.status is MembershipStatus.CURRENT


def test_who_comes_back_at_once_does_not_believe_that_the_others_are_at_their_end() -> None:
    life = Life(settled().own.kept(), START_S + 21 * ROUND_S)
    life.done = 20
    assert life.look(ROUNDS, ROUNDS) < 20 + 4 * 3
    assert life.round(ROUNDS, ROUNDS, heard=True) < 20 + 4 * 3 + 4


def test_who_comes_back_to_one_neighbor_is_there_after_a_few_rounds() -> None:
    """Half of what is left at once, on one voice; then by its own clock."""
    life = Life(settled(1).own.kept(), START_S + 10_000 * ROUND_S)
    life.done, theirs = 20, 2000
    for _ in range(4):
        theirs += 1
        life.round(theirs)
    assert life.done >= theirs


def test_after_a_crash_of_all_a_round_more_or_less_moves_nobody() -> None:
    kept = settled().own.kept()
    for theirs in ([19, 20, 21], [21, 21, 21], [20, 20, 20]):
        life = Life(kept, START_S + 1e5)
        life.done = 20
        assert life.look(*theirs, resumed=True) == 20
    life = Life(kept, START_S + 1e5)
    life.done = 20
    assert life.look(26, 26, 26, resumed=True) == 26  # those that went on from a later checkpoint


@pytest.mark.parametrize("back_s", [1.0, 1e6])
def test_a_clock_that_is_set_back_leaves_an_agent_where_it_is(back_s: float) -> None:
    life = settled()
    life.now -= back_s
    assert life.round(20, 20, 20) == 21
    assert life.round(ROUNDS, 21, 21) == 22


def test_where_one_of_two_says_that_it_is_ahead_of_a_new_one_that_listens_first() -> None:
    """A liar would keep it from nothing; if the other one is as new as it is, it is not mixed."""
    life = Life()
    assert life.look(50, 0, empty_handed=True) == 0
    assert life.own.status is MembershipStatus.STALE
    life = settled(2)
    assert life.look(50, 20, gauge=OTHER) == 20
    assert life.own.status is MembershipStatus.CURRENT


def test_a_new_one_that_was_put_off_stays_new_while_others_go_on() -> None:
    life = Life()
    assert life.look(50, 50, empty_handed=True) == 50
    assert life.look(51, 51) == 51
    assert life.own.status is MembershipStatus.NEW


def test_a_checkpoint_from_before_there_was_a_pace_is_read() -> None:
    kept = {"standing": "current", "disagreement": None, "joined": True}
    life = Life(kept)
    life.done = 20
    assert life.look(90, 90) == 90


def test_what_is_kept_of_a_pace_says_the_same_again() -> None:
    pace = settled().own.pace
    again = Pace.of(json.loads(json.dumps(pace.kept())))
    assert (again.took_s, again.reach, again.began) == (pace.took_s, pace.reach, pace.began)
    assert Pace.of(Pace().kept()) == Pace()
