"""Four agents to which one thing after another happens, each of which is over in the end.

The graph is a paw: 0, 1 and 2 know each other, and 3 knows only 2. Its edge to 2 and that between 0
and 2 are healthy whatever happens to 1.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.distributed.cluster import Cluster, from_nothing
from tests.distributed.test_agent_faults import gauge_root

from dimat.testing.faults import Kind

HEALTHY = ((0, 2), (2, 0), (2, 3), (3, 2))  # when something happens to 1
SPOILT: dict[int, Kind] = {2: "poison", 4: "corrupt", 6: "misshape", 8: "inflate"}


@pytest.fixture(scope="module")
def paw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Agents without end, each of which has exchanged with each neighbor; tests leave it so.

    All that is spoilt was, so that nothing of it happens in a test of something else.
    """
    folder = tmp_path_factory.mktemp("paw")
    with closing(Cluster(folder, rounds=10**6, exchange__timeout_s=5)) as own:
        own.delay(0.2)
        for number, kind in SPOILT.items():
            own.plan = own.plan.spoil(kind, agent=3, round=number, neighbor=2)
        own.start_all()
        for i, j in own.edges:
            own.exchange_again(i, j)
        own.until(lambda: len(own.struck(3, "inflate")) == 1, "all that is spoilt was sent")
        own.exchange_again(2, 3)
        yield own


class Since:
    """What did not count from now on."""

    def __init__(self, paw: Cluster) -> None:
        self._paw = paw
        self._before = {end: len(paw.incidents(*end)) for end in paw.ends()}

    def incidents(self, i: int, j: int) -> list[tuple[int, str, str]]:
        return self._paw.incidents(i, j)[self._before[i, j] :]

    def check_healthy(self) -> None:
        for end in HEALTHY:
            assert self.incidents(*end) == []


def back_with_its_neighbors(paw: Cluster, agent: int) -> None:
    for i, j in paw.edges:
        if agent in (i, j):
            paw.exchange_again(i, j)


def test_a_spoilt_message_is_refused_and_both_ends_say_so(paw: Cluster) -> None:
    refused = {n: why for n, what, why in paw.incidents(2, 3) if what == "refused"}
    declined = {n: why for n, what, why in paw.incidents(3, 2) if what == "declined"}
    assert refused == declined
    poison, corrupt, misshape, inflate = refused.values()
    assert "agent 3" in poison
    assert "NaN" in poison
    assert "checksum" in corrupt
    assert "header" in misshape
    assert "header" in inflate
    for n, kind in SPOILT.items():
        assert paw.struck(3, kind) == [n]
    paw.until(lambda: min(map(paw.round, (2, 3))) > max(refused), "a round is done after that")
    ours, theirs = counted(paw, 2, 3), counted(paw, 3, 2)
    for n in range(min(refused), max(refused) + 2):
        assert ours[n] == theirs[n]
        assert (ours[n] == ours[n - 1]) is (n in refused)  # what was not let in does not count


def counted(paw: Cluster, i: int, j: int) -> dict[int, int]:
    """How many exchanges with a neighbor counted at the end of each round."""
    lines = [x for x in paw.lines(i) if x["phase"] == "trained"]
    return {x["round"]: x["exchanged"].get(str(j), 0) for x in lines}


def test_a_killed_agent_is_not_waited_for_and_goes_on_from_its_checkpoint(paw: Cluster) -> None:
    since = Since(paw)
    paw.send(1, signal.SIGKILL)
    done, before = paw.round(1), paw.trained(1)
    for i in (0, 2, 3):
        paw.goes_on(i, 3)
    paw.start(1)
    back_with_its_neighbors(paw, 1)
    back = min(number for number in paw.merged(1) if number > done + 1)
    paw.all_at(back + 2)
    since.check_healthy()
    for j in (0, 2):
        lost = {number: why for number, what, why in since.incidents(j, 1) if what == "lost"}
        assert {done, done + 1, done + 2} & lost.keys()
        # the connection itself says that it is gone: no silence had to be waited for
        assert "no sign of life" not in lost[min(lost)]
    assert paw.trained(1)[: len(before) - 1] == before[:-1]  # the last may not be in a checkpoint
    assert back - 1 not in paw.trained(1)  # nor does it do what the others did without it
    for i in (0, 1, 2):  # before, on return, and a round later
        assert all(paw.merged(i)[n]["test_accuracy"] > 0.5 for n in (done - 1, back, back + 1))


def test_a_frozen_agent_is_lost_to_its_neighbors_and_to_nobody_else(paw: Cluster) -> None:
    since = Since(paw)
    paw.send(1, signal.SIGSTOP)
    for i in (0, 2, 3):
        paw.goes_on(i, 3)
    paw.send(1, signal.SIGCONT)
    back_with_its_neighbors(paw, 1)
    since.check_healthy()
    for j in (0, 2):
        kinds = {what for _, what, _ in since.incidents(j, 1)}
        assert {"lost"} <= kinds <= {"lost", "unconfirmed", "one-sided", "left", "quiet"}


def test_an_agent_that_moves_is_followed_to_its_new_address(paw: Cluster) -> None:
    since = Since(paw)
    paw.send(1, signal.SIGKILL)
    paw.move(1)
    paw.start(1)
    back_with_its_neighbors(paw, 1)
    since.check_healthy()


def test_an_agent_that_lost_everything_takes_over_what_a_neighbor_has(paw: Cluster) -> None:
    paw.send(1, signal.SIGKILL)
    shutil.rmtree(paw.path(1))
    paw.goes_on(0, 1)
    done = paw.round(0)
    paw.start(1)
    back_with_its_neighbors(paw, 1)
    first = min(paw.merged(1))
    paw.all_at(first + 4)
    assert min(x["round"] for x in paw.lines(1)) > done  # it did not train before
    assert paw.lines(1)[0]["phase"] == "merged"
    merged = {i: paw.merged(i) for i in (0, 1, 2)}
    lowest = min(own[n]["test_accuracy"] for own in merged.values() for n in (first, first + 1))
    assert lowest > merged[0][done]["test_accuracy"] - 0.06
    for j in (0, 2):  # what a random network would do to them is far out
        distance = {n: x["disagreement"] for n, x in merged[j].items()}
        usual = max(own for n, own in distance.items() if n <= done)
        assert max(distance[n] for n in range(first, first + 4)) < 2 * usual


def test_an_interrupted_agent_says_goodbye_and_is_gone(paw: Cluster) -> None:
    since = Since(paw)
    paw.send(3, signal.SIGINT)
    assert paw.finish([3]) == {3: 130}
    assert "interrupted" in paw.tail(3)
    paw.goes_on(2)
    assert [what for _, what, _ in since.incidents(2, 3)][:1] == ["left"]
    paw.start(3, from_nothing)
    back_with_its_neighbors(paw, 3)


@pytest.mark.slow
def test_the_order_of_a_root_that_is_gone_for_good_stays(paw: Cluster) -> None:
    since = Since(paw)
    paw.send(0, signal.SIGKILL)
    for i in (1, 2, 3):
        paw.goes_on(i, 4)
    paw.are_stopped((1, 2, 3))
    assert {gauge_root(paw, i) for i in (1, 2, 3)} == {0}
    for i, j in [(1, 2), (2, 3)]:
        assert {what for _, what, _ in since.incidents(i, j) + since.incidents(j, i)} <= {"left"}
    assert all(paw.merged(i)[max(paw.merged(i))]["test_accuracy"] > 0.7 for i in (1, 2, 3))
