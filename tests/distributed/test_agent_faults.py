"""Agents in processes of their own, and what may happen to them: each fault is a test.

What happens is told by what agents have reached, and none is lost because the machine is slow.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.cluster import PAW, SMALL, Cluster

from dimat.exchange.tree import unpack
from dimat.experiment.record.checkpoint import CheckpointFolder

Make = Callable[..., Cluster]
PAIR = ((0, 1),)
LINE = ((0, 1), (1, 2))
PAW_AND_TAIL = ((0, 1), (1, 2), (2, 0), (2, 3), (3, 4))


def all_end_well(cluster: Cluster) -> None:
    """Wait until all have done their last round; what they have then is whole."""
    assert set(cluster.finish().values()) == {0}
    for i in range(cluster.agents):
        assert cluster.round(i) == cluster.settings["rounds"]
        assert all(x.isfinite().all() for x in cluster.state(i).values() if x.is_floating_point())


def nothing_lost(cluster: Cluster) -> None:
    """Every exchange of every edge counted, at both ends."""
    for i, j in cluster.ends():
        assert cluster.incidents(i, j) == []
        assert cluster.exchanged(i, j) == cluster.settings["rounds"]


def gauge_root(cluster: Cluster, i: int) -> int:
    """Whose unit order the last checkpoint of an agent is in."""
    found = CheckpointFolder(cluster.path(i) / "checkpoints", "round").latest(print)
    assert found
    return int(unpack(found.meta["agent"], found.tensors)["gauge"][0])


def same_as_in_one_process(cluster: Cluster) -> None:
    """The final states are those of ``dimat run``, bit for bit."""
    whole = cluster.reference()
    for i in range(cluster.agents):
        expected = load_file(whole / "states" / f"agent-{i:03d}.safetensors")
        torch.testing.assert_close(cluster.state(i), expected, rtol=0, atol=0)


def all_freeze(cluster: Cluster, number: int, agents: tuple[int, ...]) -> None:
    """Plan that agents stop when they have done all rounds before one; before they are started."""
    for i in agents:
        cluster.plan = cluster.plan.freeze(agent=i, round=number)


def all_are_killed(cluster: Cluster, frozen: tuple[int, ...]) -> None:
    """Wait until those that are to freeze have; then nobody is left."""
    cluster.until(lambda: all(cluster.struck(i, "freeze") for i in frozen), f"{frozen} freeze")
    for i in frozen:
        cluster.send(i, signal.SIGKILL)
    assert set(cluster.finish().values()) == {-signal.SIGKILL}


@pytest.mark.parametrize(
    ("method", "edges"),
    [("dimat", PAW_AND_TAIL), pytest.param("wa", PAW, marks=pytest.mark.slow)],
)
def test_agents_that_miss_nobody_end_as_a_run_in_one_process(
    cluster: Make, method: str, edges: tuple[tuple[int, int], ...]
) -> None:
    apart = cluster(edges, rounds=5, method=method, merging__combine="gram")
    apart.start_all()
    all_end_well(apart)
    nothing_lost(apart)
    same_as_in_one_process(apart)


@pytest.mark.parametrize("method", ["dimat", "local"])
def test_the_same_command_again_changes_nothing(cluster: Make, method: str) -> None:
    """What was reported as merged stays the final state."""
    apart = cluster(PAIR, rounds=2, method=method)
    apart.start_all()
    all_end_well(apart)
    same_as_in_one_process(apart)
    before = [apart.state(i) for i in range(2)]
    apart.start_all()
    assert set(apart.finish().values()) == {0}
    torch.testing.assert_close([apart.state(i) for i in range(2)], before, rtol=0, atol=0)


@pytest.mark.slow  # tests/exchange has it without processes
def test_a_slow_agent_is_waited_for(cluster: Make) -> None:
    pair = cluster(PAIR, rounds=4, method="wa", exchange__timeout_s=15)
    pair.plan = pair.plan.delay(agent=1, round=3, seconds=20)
    pair.start_all()
    all_end_well(pair)
    assert pair.struck(1, "delay") == [3]
    nothing_lost(pair)


def test_an_agent_that_comes_with_an_order_of_its_own_listens_first(cluster: Make) -> None:
    line = cluster(LINE, rounds=10**6, exchange__timeout_s=4)
    line.delay(0.2, (0, 1))
    line.start(2, settings={"exchange.timeout_s": 0.5})
    line.until(lambda: line.round(2) >= 2, "agent 2 goes on without anybody")
    line.send(2, signal.SIGKILL)
    line.start(0)
    line.start(1)
    line.until(lambda: line.round(1) > line.round(2) + 4, "the others are far ahead")
    line.exchange_again(0, 1)
    assert gauge_root(line, 2) == 2
    line.start(2)
    line.exchange_again(2, 1)
    line.are_stopped()
    assert "quiet" in [what for _, what, _ in line.incidents(1, 2)]
    merged = line.merged(2)
    assert merged[max(merged)]["standing"] == "current"
    assert gauge_root(line, 2) == 0


def test_an_agent_of_other_settings_is_told_which_and_the_others_go_on(cluster: Make) -> None:
    line = cluster(LINE, rounds=10**6, method="wa", exchange__timeout_s=2)
    line.delay(0.2)
    for i in range(3):
        line.start(i, settings={"batch_size": 15} if i == 2 else {})
    line.until(lambda: bool(line.incidents(1, 2) and line.incidents(2, 1)), "both ends say why")
    line.exchange_again(0, 1)
    line.are_stopped()
    assert any(
        "agent 2 has other settings: 'batch_size' is 15" in x[2] for x in line.incidents(1, 2)
    )
    assert any(
        "agent 1 has other settings: 'batch_size' is 16" in x[2] for x in line.incidents(2, 1)
    )
    assert line.exchanged(1, 2) == line.exchanged(2, 1) == 0


def test_an_agent_is_interrupted_while_it_waits_for_the_others(cluster: Make) -> None:
    pair = cluster(PAIR, method="wa")
    pair.start(0)
    pair.until(lambda: pair.round(0) == 0, "it is pre-trained, and waits")
    pair.send(0, signal.SIGTERM)
    assert pair.finish([0]) == {0: 130}
    assert "Traceback" not in pair.log(0).read_text()


def test_a_cluster_killed_as_a_whole_ends_as_if_it_had_never_been(cluster: Make) -> None:
    """The others have done two rounds without one that was killed when they are too."""
    line = cluster(LINE, rounds=7, checkpoint__keep=6)
    line.plan = line.plan.crash(agent=2, round=3)
    all_freeze(line, 5, (0, 1))
    line.start_all()
    all_are_killed(line, (0, 1))
    assert [line.round(i) for i in range(3)] == [4, 4, 2]
    assert line.incidents(1, 2)
    line.start_all()
    all_end_well(line)
    same_as_in_one_process(line)
    nothing_lost(line)  # what was is taken back


def test_a_cluster_killed_in_its_first_round_does_not_pretrain_again(cluster: Make) -> None:
    """One has done a round, the other has only been pre-trained: all go on from there."""
    pair = cluster(PAIR, rounds=3, checkpoint__keep=8, exchange__timeout_s=2)
    pair.plan = pair.plan.crash(agent=1, round=1)
    all_freeze(pair, 2, (0,))
    pair.start_all()
    all_are_killed(pair, (0,))
    assert [pair.round(i) for i in range(2)] == [1, 0]
    pair.settings["exchange.timeout_s"] = SMALL["exchange.timeout_s"]
    pair.start_all()
    all_end_well(pair)
    same_as_in_one_process(pair)
