"""What an observer sees, against what was put there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from tests.experiment.test_run import SMALL, lines
from tests.methods.agents import Agents, agents_of, irregular, merge
from tests.tiers import tiers

import dimat
from dimat.data import Shard
from dimat.exchange import Traffic
from dimat.exchange.in_process import run_all
from dimat.experiment.config.config import DiagnosticsConfig, MatchingConfig
from dimat.experiment.evaluation.diagnostics import MergeSnapshot, permuted_operator
from dimat.experiment.evaluation.loss_barrier import loss_barrier
from dimat.methods import Averaging, Dimat, Method, RoundResult
from dimat.state import State, consensus_distance
from dimat.symmetry import analyze
from dimat.topology import Topology, build_topology, metropolis
from dimat.training.trainer import LocalTrainer, MergeSettings

RING: nx.Graph[int] = nx.cycle_graph(5)


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


def see(own: Agents, method: Method, states: list[State], graph: nx.Graph[int]) -> MergeSnapshot:
    them = own.members(states, graph)
    merged, _ = merge(method, them)
    symmetry = own.analysis.symmetry if method.matches else None
    return MergeSnapshot(them[0].topology, states, merged, them[0].parameters, symmetry)


@pytest.mark.parametrize("gauge", ["tree", "pairwise"])
def test_shuffled_agents_are_as_far_apart_as_in_order(own: Agents, gauge: str) -> None:
    """The distance is measured in one unit order, whichever way agents are aligned."""
    states = own.perturbed(5, by=0.02)
    plain = see(own, Averaging(), states, RING).describe()
    shuffled = own.shuffled(states)
    snapshot = see(own, Dimat(gauge), shuffled, RING)  # type: ignore[arg-type]
    seen = snapshot.describe()
    for name in ("consensus_before", "consensus_after", "contraction"):
        assert seen[name] == pytest.approx(plain[name]), name
    raw = consensus_distance(shuffled, snapshot.parameters)
    assert seen["consensus_before"] < 0.5 * raw  # type: ignore[operator]


def test_agents_in_different_orders_are_not_measured_against_each_other(own: Agents) -> None:
    """Orders that spread have come one edge far: on a line of four from 0 to 1, and from 2 to 3."""
    graph: nx.Graph[int] = nx.path_graph(4)
    states = own.shuffled(own.perturbed(4, by=0.02))
    snapshot = see(own, Dimat("spread"), states, graph)
    seen = snapshot.describe()
    assert seen["consensus_before"] is seen["consensus_after"] is seen["contraction"] is None
    assert [snapshot.together(i, i + 1) for i in range(3)] == [True, False, True]


def test_plain_averaging_contracts_as_the_mixing_matrix_does(own: Agents) -> None:
    states, graph = own.perturbed(6), irregular(0)
    snapshot = see(own, Averaging(), states, graph)
    seen = snapshot.describe()
    merged = [m.state for m in snapshot.results]
    assert seen["consensus_before"] == consensus_distance(states, snapshot.parameters)
    assert seen["consensus_after"] == consensus_distance(merged, snapshot.parameters)
    assert 0 < seen["contraction"] <= snapshot.topology.second_eigenvalue + 1e-9  # type: ignore[operator]
    assert (seen["units_moved"], seen["cycle_error"], seen["permuted_gap"]) == ({}, None, None)


def test_units_moved_are_those_that_the_permutation_puts_elsewhere(own: Agents) -> None:
    symmetry, state = own.analysis.symmetry, own.perturbed(1)[0]
    move = symmetry.random(torch.Generator().manual_seed(0))
    merged = [RoundResult(state, symmetry.identity()), RoundResult(state, move)]
    graph = nx.path_graph(2)
    pair = Topology("pair", graph, metropolis(graph, np.ones(2)))
    seen = MergeSnapshot(pair, [state] * 2, merged, [], symmetry).describe()["units_moved"]
    moved = symmetry.apply(move, state)
    for group in symmetry.groups:
        key = next(k for k, _ in group.members if k.endswith("bias"))
        share = float((moved[key] != state[key]).double().mean())
        assert seen[group.name] == pytest.approx(share / 2)  # type: ignore[index]
        assert share > 0.5


def test_consistent_alignments_have_no_cycle_error_and_the_gap_of_the_mixing_matrix(
    own: Agents,
) -> None:
    states = own.shuffled([own.perturbed(1)[0]] * 5)
    seen = see(own, Dimat("pairwise"), states, RING).describe()
    assert seen["cycle_error"] == {"edges": 0.0, "cycles": 0.0}
    assert seen["permuted_gap"] == pytest.approx(seen["spectral_gap"])
    assert all(value == pytest.approx(1) for value in seen["similarity"].values())  # type: ignore[attr-defined]
    assert all(value > 0 for value in seen["margin"].values())  # type: ignore[attr-defined]


def test_inconsistent_alignments_have_a_cycle_error_and_a_smaller_gap(own: Agents) -> None:
    """Agents that have nothing in common are matched by chance."""
    states = own.shuffled(own.perturbed(5, by=3.0))
    seen = see(own, Dimat("pairwise"), states, RING).describe()
    assert seen["cycle_error"]["edges"] > 0.1  # type: ignore[index]
    assert seen["cycle_error"]["cycles"] > 0.1  # type: ignore[index]
    assert 0 < seen["permuted_gap"] < 0.999 * seen["spectral_gap"]  # type: ignore[operator]


def test_the_permuted_operator_does_to_units_what_the_merge_does(own: Agents) -> None:
    """Two paths: the first bias of a merged network is the operator times all first biases."""
    states = own.shuffled(own.perturbed(5, by=3.0))
    snapshot = see(own, Dimat("pairwise"), states, RING)
    symmetry = own.analysis.symmetry
    group = next(g for g in symmetry.groups if any(k.endswith("bias") for k, _ in g.members))
    key = next(k for k, _ in group.members if k.endswith("bias"))
    assert len(states[0][key]) == group.size
    operator = permuted_operator(
        symmetry, group.name, group.size, snapshot.topology.pi, snapshot.edges
    )
    np.testing.assert_allclose(operator.sum(0), 1)
    np.testing.assert_allclose(operator.sum(1), 1)
    before = np.concatenate([s[key].numpy() for s in states])
    after = np.concatenate([m.state[key].numpy() for m in snapshot.results])
    np.testing.assert_allclose(operator @ before, after)


def test_a_pair_is_seen_in_one_order(own: Agents) -> None:
    base = own.perturbed(1)[0]
    for gauge in ("tree", "pairwise"):
        snapshot = see(own, Dimat(gauge), own.shuffled([base] * 5), RING)  # type: ignore[arg-type]
        for i, j in RING.edges:
            first, second = snapshot.pair(i, j)
            torch.testing.assert_close(first, second)


@pytest.mark.parametrize("gauge", tiers(["tree", "pairwise"], slow=["tree"]))
def test_the_barrier_is_measured_when_asked_for_and_changes_nothing(
    tmp_path: Path, gauge: str
) -> None:
    config = replace(
        SMALL,
        model="cnn",
        controls=("cdsgd",),
        matching=MatchingConfig(gauge=gauge),  # type: ignore[arg-type]
        method="dimat",
    )
    plain = dimat.run(replace(config, out=str(tmp_path / "a"))).folder
    asked = replace(config, diagnostics=DiagnosticsConfig(barrier_images=100))
    measured = dimat.run(replace(asked, out=str(tmp_path / "b"))).folder
    accuracies = [[x["test_loss"] for x in lines(folder)] for folder in (plain, measured)]
    assert accuracies[0] == accuracies[1]

    def seen(folder: Path) -> list[dict[str, float | None]]:
        text = (folder / "diagnostics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    assert [x["barrier"] for x in seen(plain)] == [None, None]
    assert all(x["barrier"] is not None and abs(x["barrier"]) < 5 for x in seen(measured))
    steps = seen(measured / "controls" / "cdsgd")
    assert [set(x) for x in steps] == [{"round", "consensus_after", "spectral_gap"}] * 2


def test_the_barrier_is_the_loss_halfway_above_the_mean_of_the_ends() -> None:
    """On one edge, of agents whose own losses differ; by hand."""
    agents = [lone_agent(index) for index in range(2)]
    with torch.no_grad():
        for parameter in agents[1].model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    states = [agent.state() for agent in agents]
    graph = nx.path_graph(2)
    pair = Topology("pair", graph, metropolis(graph, np.ones(2)))
    names = [name for name, _ in agents[0].model.named_parameters()]
    snapshot = MergeSnapshot(pair, states, [RoundResult(s) for s in states], names, None)
    x, y = torch.randn(30, 1, 4, 4), torch.arange(30) % 3
    talks = [loss_barrier(a, pair, None if a.index else snapshot, (x, y), 20) for a in agents]
    found, elsewhere = run_all(talks, [Traffic(), Traffic()])
    ends = [agent.evaluate(x[:20], y[:20])["loss"] for agent in agents]
    halfway = lone_agent(0)
    halfway.load({k: (states[0][k] + states[1][k]) / 2 for k in states[0]})
    expected = halfway.evaluate(x[:20], y[:20])["loss"] - sum(ends) / 2
    assert found == pytest.approx(expected, rel=1e-5)
    assert math.isnan(elsewhere)  # it is the observer's to know
    assert ends[0] != pytest.approx(ends[1], rel=1e-2)
    for agent, state in zip(agents, states, strict=True):
        torch.testing.assert_close(agent.state(), state, rtol=0, atol=0)


def lone_agent(index: int) -> LocalTrainer:
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    shard = Shard(torch.zeros(9, 4, 4, 1), torch.arange(9) % 3)
    ring = build_topology("ring", 2)
    merging = MergeSettings("local", ring, lambda: analyze(model, (torch.zeros(1, 4, 4, 1),)))
    return LocalTrainer(index, model, optimizer, schedule, shard, ring.at(0), 0, 3, merging)
