"""Agents in processes of their own, and what may happen to them: each fault is a test.

The graph is a paw: 0, 1 and 2 know each other, and 3 knows only 2. Its edge to 2 and that between 0
and 2 are healthy whatever happens to 1.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.cluster import Cluster
from tests.distributed.nursery import ended, popen

from dimat.experiment.checkpoint import Store
from dimat.experiment.faults import Kind
from dimat.experiment.tree import unpack

Make = Callable[..., Cluster]
PAW_AND_TAIL = ((0, 1), (1, 2), (2, 0), (2, 3), (3, 4))
HEALTHY = ((0, 2), (2, 3))  # when something happens to 1
SLACK_S = 8.0  # of a test, on a machine that does other things as well
ROUND_S = 0.2


def running(make: Make, until: int = 4, **settings: object) -> Cluster:
    """A cluster whose agents have all done so many rounds."""
    cluster = make(**settings)
    cluster.delay(ROUND_S)
    cluster.start_all()
    all_at(cluster, until)
    return cluster


def all_at(cluster: Cluster, number: int) -> None:
    """Wait until every agent has done a round."""
    everyone = range(cluster.agents)
    cluster.until(lambda: min(map(cluster.round, everyone)) >= number, f"all do round {number}")


def goes_on(cluster: Cluster, i: int, rounds: int = 2) -> float:
    """Wait until an agent has done some more rounds; the seconds that took."""
    end = cluster.round(i) + rounds
    return cluster.until(lambda: cluster.round(i) >= end, f"agent {i} goes on")


def exchange_again(cluster: Cluster, i: int, j: int) -> None:
    """Wait until an exchange between two has counted at both, later than now."""
    before = cluster.exchanged(i, j), cluster.exchanged(j, i)
    cluster.until(
        lambda: cluster.exchanged(i, j) > before[0] and cluster.exchanged(j, i) > before[1],
        f"{i} and {j} exchange again",
    )


def all_end_well(cluster: Cluster) -> None:
    """Wait until all have done their last round; what they have then is whole."""
    assert set(cluster.finish().values()) == {0}
    for i in range(cluster.agents):
        assert cluster.round(i) == cluster.settings["rounds"]
        assert all(x.isfinite().all() for x in cluster.state(i).values() if x.is_floating_point())


def nothing_lost(cluster: Cluster, *edges: tuple[int, int]) -> None:
    """Every exchange of these edges counted, at both ends."""
    for i, j in edges:
        assert cluster.incidents(i, j) == cluster.incidents(j, i) == []
        assert cluster.exchanged(i, j) == cluster.exchanged(j, i) == cluster.settings["rounds"]


def gauge_root(cluster: Cluster, i: int) -> int:
    """Whose unit order the last checkpoint of an agent is in."""
    found = Store(cluster.path(i) / "checkpoints", "round").latest(print)
    assert found
    return int(unpack(found.meta["agent"], found.tensors)["gauge"][0])


def same_as_in_one_process(cluster: Cluster) -> None:
    """The final states are those of ``dimat run``, bit for bit."""
    whole = cluster.reference()
    for i in range(cluster.agents):
        expected = load_file(whole / "states" / f"agent-{i:03d}.safetensors")
        torch.testing.assert_close(cluster.state(i), expected, rtol=0, atol=0)


def all_are_stopped(cluster: Cluster) -> None:
    """End all that live, which they do at once."""
    for i in range(cluster.agents):
        cluster.send(i, signal.SIGTERM)
    assert set(cluster.finish(wait_s=SLACK_S).values()) == {130}


@pytest.mark.parametrize("method", ["dimat", "wa"])
def test_agents_that_miss_nobody_end_as_a_run_in_one_process(cluster: Make, method: str) -> None:
    apart = cluster(PAW_AND_TAIL, rounds=6, method=method)
    apart.start_all()
    all_end_well(apart)
    nothing_lost(apart, *PAW_AND_TAIL)
    same_as_in_one_process(apart)


def test_agents_that_never_merge_end_as_a_run_too_and_the_same_command_again_changes_nothing(
    cluster: Make,
) -> None:
    apart = cluster(rounds=3, method="local")
    apart.start_all()
    assert set(apart.finish().values()) == {0}
    same_as_in_one_process(apart)
    before = [apart.state(i) for i in range(apart.agents)]
    apart.start_all()
    assert set(apart.finish().values()) == {0}
    torch.testing.assert_close(
        [apart.state(i) for i in range(apart.agents)], before, rtol=0, atol=0
    )


def test_what_was_reported_merged_stays_the_final_state_when_started_again(cluster: Make) -> None:
    apart = cluster(((0, 1),), rounds=2)
    apart.start_all()
    all_end_well(apart)
    same_as_in_one_process(apart)
    before = [apart.state(i) for i in range(2)]
    apart.start_all()
    assert set(apart.finish().values()) == {0}
    torch.testing.assert_close([apart.state(i) for i in range(2)], before, rtol=0, atol=0)


def test_a_killed_agent_is_not_waited_for_and_goes_on_from_its_checkpoint(cluster: Make) -> None:
    paw = running(cluster, rounds=999)
    paw.send(1, signal.SIGKILL)
    done = paw.round(1)
    # far less than timeout_s: the connection itself says that it is gone
    assert max(goes_on(paw, i) for i in (0, 2, 3)) < SLACK_S < 20
    paw.start(1)
    exchange_again(paw, 1, 0)
    exchange_again(paw, 1, 2)
    back = min(number for number in paw.merged(1) if number > done)
    all_at(paw, back + 2)
    all_are_stopped(paw)
    assert not any(paw.incidents(*edge) or paw.incidents(*edge[::-1]) for edge in HEALTHY)
    for j in (0, 2):
        lost = {number for number, what, _ in paw.incidents(j, 1) if what == "lost"}
        assert lost & {done, done + 1, done + 2}
    first = [x["round"] for x in paw.lines(1) if x["phase"] == "trained"]
    assert first[:2] == [0, 1]
    assert back - 1 not in first  # it does not do again what the others did without it
    for i in (0, 1, 2):  # before, on return, and a round later
        assert all(paw.merged(i)[n]["test_accuracy"] > 0.5 for n in (done - 1, back, back + 1))


def test_a_frozen_agent_holds_up_its_neighbors_for_the_timeout_and_nobody_else(
    cluster: Make,
) -> None:
    paw = running(cluster, rounds=99, exchange__timeout_s=3)
    paw.send(1, signal.SIGSTOP)
    assert max(goes_on(paw, i) for i in (0, 2, 3)) < 3 + SLACK_S
    assert goes_on(paw, 0) < 3  # it is waited for once
    paw.send(1, signal.SIGCONT)
    exchange_again(paw, 1, 0)
    exchange_again(paw, 1, 2)
    assert not any(paw.incidents(*edge) or paw.incidents(*edge[::-1]) for edge in HEALTHY)
    all_are_stopped(paw)
    for j in (0, 2):
        assert (
            {"lost"}
            <= {what for _, what, _ in paw.incidents(j, 1)}
            <= {*("lost", "unconfirmed", "one-sided", "left", "quiet")}
        )


def test_a_slow_agent_is_waited_for(cluster: Make) -> None:
    paw = cluster(rounds=6, exchange__timeout_s=2.5)
    paw.plan = paw.plan.delay(agent=2, round=3, seconds=4)
    paw.start_all()
    all_end_well(paw)
    assert paw.struck(2, "delay") == [3]
    nothing_lost(paw, *paw.edges)


def test_an_agent_that_lost_everything_takes_over_what_a_neighbor_has(cluster: Make) -> None:
    paw = running(cluster, rounds=18)
    paw.send(1, signal.SIGKILL)
    shutil.rmtree(paw.path(1))
    goes_on(paw, 0, 1)
    done = paw.round(0)
    paw.start(1)
    exchange_again(paw, 1, 0)
    exchange_again(paw, 1, 2)
    all_end_well(paw)
    assert min(x["round"] for x in paw.lines(1)) > done  # it did not train before
    assert paw.lines(1)[0]["phase"] == "merged"
    first = min(paw.merged(1))
    accuracy = {
        i: [paw.merged(i)[n]["test_accuracy"] for n in (first, first + 1)] for i in (0, 1, 2)
    }
    assert min(min(own) for own in accuracy.values()) > paw.merged(0)[done]["test_accuracy"] - 0.06
    for j in (0, 2):  # what a random network would do to them is far out
        distance = {n: x["disagreement"] for n, x in paw.merged(j).items()}
        assert max(distance[n] for n in range(first, first + 4)) < 2 * distance[done]


def test_an_agent_that_comes_with_an_order_of_its_own_listens_first(cluster: Make) -> None:
    paw = cluster(rounds=99, exchange__timeout_s=4)
    paw.delay(ROUND_S, (0, 1, 2))
    paw.open()
    paw.start(3, settings={"exchange.timeout_s": 0.5})
    paw.until(lambda: paw.round(3) >= 2, "agent 3 goes on without anybody")
    paw.send(3, signal.SIGKILL)
    for i in (0, 1, 2):
        paw.start(i)
    paw.until(lambda: paw.round(2) > paw.round(3) + 4, "the others are far ahead")
    assert [gauge_root(paw, i) for i in (2, 3)] == [0, 3]
    paw.start(3)
    exchange_again(paw, 3, 2)
    all_are_stopped(paw)
    assert "quiet" in [what for _, what, _ in paw.incidents(2, 3)]
    standing = [paw.merged(3)[n]["standing"] for n in sorted(paw.merged(3))]
    assert standing[-1] == "current"
    assert gauge_root(paw, 3) == 0


def test_edges_outlive_the_store_and_a_new_one_lets_a_lost_agent_in_again(cluster: Make) -> None:
    paw = running(cluster, rounds=99)
    paw.kill_store()
    for i, j in paw.edges:
        exchange_again(paw, i, j)
    paw.send(1, signal.SIGKILL)
    paw.start(1)
    assert max(goes_on(paw, i) for i in (0, 2, 3)) < SLACK_S
    paw.open()
    exchange_again(paw, 1, 0)
    exchange_again(paw, 1, 2)
    assert not any(paw.incidents(*edge) or paw.incidents(*edge[::-1]) for edge in HEALTHY)
    all_are_stopped(paw)


def test_a_spoilt_message_is_refused_and_both_ends_say_so(cluster: Make) -> None:
    paw = cluster(rounds=10)
    kinds: dict[int, Kind] = {2: "poison", 4: "corrupt", 6: "misshape", 8: "inflate"}
    for number, kind in kinds.items():
        paw.plan = paw.plan.spoil(kind, agent=3, round=number, neighbor=2)
    paw.start_all()
    all_end_well(paw)
    refused = {n: why for n, what, why in paw.incidents(2, 3) if what == "refused"}
    declined = {n: why for n, what, why in paw.incidents(3, 2) if what == "declined"}
    assert refused.keys() == declined.keys() == kinds.keys()
    assert "agent 3" in refused[2]
    assert "NaN" in refused[2]
    assert "checksum" in refused[4]
    assert "header" in refused[6]
    assert "header" in refused[8]
    for n, kind in kinds.items():
        assert paw.struck(3, kind) == [n]
    assert paw.exchanged(2, 3) == paw.exchanged(3, 2) == 10 - len(kinds)
    nothing_lost(paw, (0, 1), (1, 2), (2, 0))


def test_an_agent_of_other_settings_is_told_which_and_the_others_go_on(cluster: Make) -> None:
    paw = cluster(rounds=4, exchange__timeout_s=4)
    paw.open()
    for i in range(4):
        paw.start(i, settings={"rounds": 5} if i == 3 else {})
    assert set(paw.finish().values()) == {0}
    assert any("agent 3 has other settings: 'rounds' is 5" in x[2] for x in paw.incidents(2, 3))
    assert any("agent 2 has other settings: 'rounds' is 4" in x[2] for x in paw.incidents(3, 2))
    assert paw.exchanged(2, 3) == paw.exchanged(3, 2) == 0
    nothing_lost(paw, (0, 1), (1, 2), (2, 0))


def test_the_order_of_a_root_that_is_gone_for_good_stays(cluster: Make) -> None:
    paw = running(cluster, rounds=14)
    paw.send(0, signal.SIGKILL)
    assert set(paw.finish((1, 2, 3)).values()) == {0}
    assert {gauge_root(paw, i) for i in (1, 2, 3)} == {0}
    nothing_lost(paw, (1, 2), (2, 3))
    assert all(paw.merged(i)[14]["test_accuracy"] > 0.7 for i in (1, 2, 3))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_agent_says_goodbye_and_is_gone(
    cluster: Make, number: signal.Signals
) -> None:
    pair = cluster(((0, 1),), rounds=60)
    pair.delay(ROUND_S)
    pair.open()
    pair.start(0)
    pair.start(1, popen)
    pair.until(lambda: pair.exchanged(0, 1) > 0, "they exchange")
    pair.send(1, number)
    assert ended(pair.processes[1], 5) == 130
    assert "Traceback" not in pair.log(1).read_text()
    assert "interrupted" in pair.tail(1)
    assert goes_on(pair, 0) < SLACK_S
    assert pair.incidents(0, 1)[0][1] == "left"


def test_an_agent_is_interrupted_while_it_looks_for_a_store(cluster: Make) -> None:
    pair = cluster(((0, 1),))
    pair.open()
    pair.kill_store()
    pair.start(0)
    pair.until(lambda: pair.path(0).exists(), "it sets out")
    pair.send(0, signal.SIGTERM)
    assert ended(pair.processes[0], 5) == 130
    assert "Traceback" not in pair.log(0).read_text()


def test_a_cluster_killed_as_a_whole_ends_as_if_it_had_never_been(cluster: Make) -> None:
    paw = running(cluster, until=3, rounds=9, checkpoint__keep=6)
    paw.send(3, signal.SIGKILL)
    goes_on(paw, 2, 2)  # the others have done a round without it when they are killed
    for i in (0, 1, 2):
        os.kill(paw.processes[i].pid, signal.SIGKILL)
    assert set(paw.finish().values()) == {-signal.SIGKILL}
    assert paw.incidents(2, 3)
    paw.start_all()
    all_end_well(paw)
    same_as_in_one_process(paw)
    nothing_lost(paw, *paw.edges)  # what was is taken back


def test_a_cluster_killed_in_its_first_round_does_not_pretrain_again(cluster: Make) -> None:
    """One has done a round, the others have only been pre-trained: all go on from there."""
    pair = cluster(((0, 1),), rounds=6, checkpoint__keep=8)
    pair.delay(ROUND_S)
    pair.plan = pair.plan.crash(agent=1, round=1)
    pair.start_all()
    pair.finish([1])
    pair.until(lambda: pair.round(0) >= 1, "agent 0 does a round alone")
    pair.send(0, signal.SIGKILL)
    pair.start_all()
    all_end_well(pair)
    same_as_in_one_process(pair)
