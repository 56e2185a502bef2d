"""What an agent that comes late is to its neighbors, from what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from dimat.agent.membership import Membership, MembershipStatus
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.methods import RoundContext, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.topology import build_topology

ORDER, OTHER = GaugeId(0, 1), GaugeId(3, 1)


class Hood:
    """Neighbors that say what a test wants."""

    def __init__(self, news: Mapping[int, Mapping[str, Any]]) -> None:
        self._news = news
        self.heard: Mapping[int, Mapping[str, Any]] = {}
        self.saying: Mapping[str, Any] = {}
        self.quiet = False

    def news(self) -> Mapping[int, Mapping[str, Any]]:
        return self._news


def presence(**news: Mapping[str, Any]) -> Membership:
    said = {int(name[1:]): own for name, own in news.items()}
    return Membership(cast(Neighborhood, Hood(said)), joined=True)


def at(number: int, gauge: GaugeId | None = ORDER, **more: Any) -> dict[str, Any]:
    order = None if gauge is None else gauge.parts
    return {"round": number, "gauge": order, **more}


def _nothing() -> Any:
    raise AssertionError("no units are matched here")


def member(agent: int = 1, topology: str = "ring", agents: int = 4) -> RoundContext:
    network = build_topology(topology, agents)
    return RoundContext(agent, 1, {"w": torch.ones(2)}, network.at(0), ["w"], _nothing, list)


@pytest.mark.parametrize("done", [7, 8, 9])
def test_who_is_at_most_a_round_behind_goes_on_as_it_is(done: int) -> None:
    own = presence(_0=at(8), _2=at(7, OTHER))
    assert own.catch_up(done, GaugeId(9, 9)) == done
    assert own.status is MembershipStatus.CURRENT


@pytest.mark.parametrize(
    ("gauge", "standing"),
    [
        (ORDER, MembershipStatus.CURRENT),
        (OTHER, MembershipStatus.STALE),
        (None, MembershipStatus.STALE),
    ],
)
def test_who_was_away_goes_on_where_others_are_and_listens_first_if_its_order_is_another(
    gauge: GaugeId | None, standing: MembershipStatus
) -> None:
    own = presence(_0=at(8), _2=at(9))
    assert own.catch_up(3, gauge) == 8  # where both have been
    assert own.status is standing


def test_where_no_method_keeps_orders_who_was_away_is_mixed_at_once() -> None:
    own = presence(_0=at(8, None), _2=at(9, None))
    assert own.catch_up(3, None) == 8
    assert own.status is MembershipStatus.CURRENT


def test_who_never_met_the_others_listens_first_whatever_order_it_says_it_is_in() -> None:
    """Two lives of one agent may both have begun an order of one name."""
    own = presence(_0=at(8))
    own.joined = False
    assert own.catch_up(7, ORDER) == 8
    assert own.status is MembershipStatus.STALE


@pytest.mark.parametrize("value", [10**12, -1, True, "9", None, [3]])
def test_a_round_that_makes_no_sense_is_not_believed(value: object) -> None:
    own = presence(_0={"round": value, "gauge": None})
    own.rounds = 20
    assert own.catch_up(3, ORDER) == 3


def test_who_has_nothing_is_new_where_others_have_begun() -> None:
    own = presence(_0=at(1))
    own.joined = False
    assert own.catch_up(0, None, empty_handed=True) == 1
    assert own.status is MembershipStatus.NEW


def test_at_the_very_beginning_nobody_is_new() -> None:
    own = presence(_0=at(0), _2=at(0))
    assert own.catch_up(0, None, empty_handed=True) == 0
    assert own.status is MembershipStatus.CURRENT


def test_who_was_pretrained_while_others_went_on_listens_first() -> None:
    own = presence(_0=at(5, None))
    own.joined = False
    assert own.catch_up(0, None) == 5
    assert own.status is MembershipStatus.STALE


def test_those_who_listen_themselves_are_no_measure() -> None:
    own = presence(_0=at(50, quiet=True), _2=at(3))
    assert own.catch_up(3, ORDER) == 3


def test_who_is_new_has_all_its_weight_on_the_neighbor_it_listens_to_most() -> None:
    own = presence(_0=at(5, quiet=True), _2=at(5))
    own.status = MembershipStatus.NEW
    me = own.context(member())
    assert me.neighbors == [0, 2]
    assert me.weights == [0.0, 0.0, 1.0]  # 0 listens itself
    others = [float(x) for x in me.topology.pi[0]]
    assert others == [float(x) for x in build_topology("ring", 4).at(0).pi[0]]


def test_who_is_current_brings_what_it_has() -> None:
    own, me = presence(_0=at(5), _2=at(5)), member()
    assert own.context(me) is me


def test_who_listens_weighs_as_the_mixing_matrix_says_and_follows_any_order() -> None:
    """Even if its own is older: nobody hears it, so nobody would follow."""
    own, me = presence(_0=at(5), _2=at(5)), replace(member(), gauge=GaugeId(0, 1))
    own.status = MembershipStatus.STALE
    assert own.context(me) == replace(me, gauge=None)


@pytest.mark.parametrize(
    ("theirs", "ours", "standing"),
    [
        ([1.0, 3.0, 2.0], 4.0, MembershipStatus.CURRENT),  # twice the median
        ([1.0, 3.0, 2.0], 4.1, MembershipStatus.STALE),
        ([None, None], 9.9, MembershipStatus.CURRENT),  # nobody can say
        ([1.0, "x", [1], True, float("nan")], 2.1, MembershipStatus.STALE),  # that is no distance
    ],
)
def test_who_listens_is_heard_again_once_it_is_near(
    theirs: list[Any], ours: float, standing: MembershipStatus
) -> None:
    own = presence()
    own.status = MembershipStatus.STALE
    own.neighborhood.heard = {j: {"disagreement": x} for j, x in enumerate(theirs)}
    own.after(RoundResult({}, disagreement=ours))
    assert own.status is standing


def test_who_listens_is_heard_again_once_listening_brings_it_no_nearer() -> None:
    """Its being quiet may be what keeps its neighbors apart from each other."""
    own = presence()
    own.status = MembershipStatus.STALE
    own.neighborhood.heard = {0: {"disagreement": 0.1}}
    for distance, standing in [(9.0, "stale"), (7.0, "stale"), (6.4, "current")]:
        own.after(RoundResult({}, disagreement=distance))
        assert own.status is MembershipStatus(standing)


def test_what_it_is_to_its_neighbors_is_kept_through_a_restart() -> None:
    own, again = presence(), presence()
    own.status, own.disagreement = MembershipStatus.STALE, 3.5
    again.joined = False
    again.restore(own.kept())
    assert (again.status, again.disagreement, again.joined) == (MembershipStatus.STALE, 3.5, True)
    assert again.resumed


def test_who_heard_nobody_stays_what_it_was() -> None:
    for standing in MembershipStatus:
        own = presence()
        own.status = standing
        own.after(RoundResult({}))
        assert own.status is standing


def test_who_took_over_a_state_is_mixed_from_then_on_and_says_nothing_of_its_disagreement() -> None:
    own = presence()
    own.status = MembershipStatus.NEW
    own.after(RoundResult({}, disagreement=123.0))
    own.speak(4, ORDER)
    assert own.status is MembershipStatus.CURRENT
    assert not own.neighborhood.quiet
    assert own.neighborhood.saying == {
        "round": 4,
        "gauge": [0, 1, 0],
        "disagreement": None,
        "resumed": False,
    }


def test_who_is_new_and_hears_others_than_the_one_it_wants_to_take_over_stays_new() -> None:
    own = presence(_0=at(5), _2=at(5))
    own.status = MembershipStatus.NEW
    me = own.context(member())
    assert me.weights_of([2]) == [1.0, 0.0]  # 0 was lost: 2 alone changes nothing
    own.after(RoundResult({}, disagreement=0.0))
    assert own.status is MembershipStatus.NEW


def test_who_is_new_and_finds_nobody_to_take_over_mixes_with_nobody() -> None:
    own = presence(_0=at(5, quiet=True))
    own.status = MembershipStatus.NEW
    assert own.context(member()).weights == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("standing", [MembershipStatus.STALE, MembershipStatus.NEW])
def test_who_listens_says_that_it_is_not_to_be_mixed(standing: MembershipStatus) -> None:
    own = presence()
    own.status = standing
    own.speak(4, None)
    assert own.neighborhood.quiet
