"""Networks that vary in time: turns, dropout, and how fast they mix."""

from __future__ import annotations

from functools import reduce

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.graphs import connected_graphs, directed_graphs

from dimat.errors import ConfigError
from dimat.topology import (
    TOPOLOGIES,
    Dropout,
    Matrix,
    Network,
    Periodic,
    Topology,
    build_topology,
    check_connected,
    check_mixing_matrix,
    check_pushing_matrix,
    metropolis,
    push,
    shard_size,
)

SEEDS = st.integers(0, 2**63 - 1)


def pushed(graph: nx.Graph[int]) -> Topology:
    return Topology("x", graph, push(graph, np.ones(len(graph))))


def mixed(graph: nx.Graph[int]) -> Topology:
    return Topology("x", graph, metropolis(graph, np.ones(len(graph))))


def product(network: Network, times: range) -> Matrix:
    matrices = [network.at(time).pi for time in times]
    return reduce(lambda before, pi: pi @ before, matrices)


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name != "edges"])
@pytest.mark.parametrize("agents", [4, 6, 12])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_every_network_is_what_the_protocol_says(name: str, agents: int, dropout: float) -> None:
    network: Network = build_topology(name, agents, dropout=dropout)
    check_connected(network.graph)
    times = [network.at(time) for time in range(2 * (network.period or 10))]
    assert {t.num_agents for t in times} == {network.num_agents} == {agents}
    assert {t.directed for t in times} == {network.directed} == {network.graph.is_directed()}
    assert all(set(t.graph.edges) <= set(network.graph.edges) for t in times)
    assert network.doubly_stochastic == all(t.doubly_stochastic for t in times)
    assert 0 <= network.contraction < 1
    assert network.spectral_gap == 1 - network.contraction
    assert (network.name, isinstance(network, Topology)) == (name, network.period == 1)
    for topology in times:
        check = check_pushing_matrix if network.directed else check_mixing_matrix
        check(topology.pi, topology.graph)


@pytest.mark.parametrize("agents", [2, 4, 8, 16, 32])
def test_one_peer_exponential_averages_exactly_in_a_period(agents: int) -> None:
    network = build_topology("one-peer-exponential", agents)
    period = agents.bit_length() - 1
    assert network.period == period
    for start in range(period):
        averaged = product(network, range(start, start + period))
        np.testing.assert_array_equal(averaged, np.full((agents, agents), 1 / agents))
    assert network.contraction == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("agents", [3, 5, 8, 11])
def test_one_peer_exponential_hears_one_power_of_two_after_the_other(agents: int) -> None:
    network = build_topology("one-peer-exponential", agents)
    offsets = [2**k for k in range(agents) if 2**k < agents]
    for time, offset in enumerate(offsets * 2):
        for i in range(agents):
            assert network.at(time).neighbors(i) == [(i - offset) % agents]
            assert network.at(time).listeners(i) == [(i + offset) % agents]
    assert nx.utils.graphs_equal(
        nx.DiGraph(network.graph), build_topology("directed-exponential", agents).graph
    )


@pytest.mark.parametrize("agents", range(1, 10))
def test_alternating_matchings_color_the_edges_of_the_ring(agents: int) -> None:
    network = build_topology("alternating-matchings", agents)
    turns = [network.at(time).graph for time in range(network.period or 0)]
    assert len(turns) == (1 if agents < 3 else 2 + agents % 2)
    assert all(degree <= 1 for turn in turns for _, degree in turn.degree)
    colored = sorted((min(edge), max(edge)) for turn in turns for edge in turn.edges)
    ring = build_topology("ring", agents).graph
    assert colored == sorted((min(edge), max(edge)) for edge in ring.edges)


def test_partners_of_a_matching_weigh_each_other_half_and_others_themselves_alone() -> None:
    matched = build_topology("alternating-matchings", 3).at(0)
    np.testing.assert_array_equal(matched.pi, [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])


def test_turns_come_back_as_the_very_same_topology() -> None:
    network = build_topology("one-peer-exponential", 8)
    assert all(network.at(time + 3) is network.at(time) for time in range(9))


# --- dropout --------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(connected_graphs(), SEEDS, st.integers(0, 10**6))
def test_dropout_stays_symmetric_and_keeps_the_mean(
    graph: nx.Graph[int], seed: int, time: int
) -> None:
    base = mixed(graph)
    topology = Dropout(base, 0.5, seed).at(time)
    check_mixing_matrix(topology.pi, topology.graph)
    assert topology.doubly_stochastic
    kept = topology.pi > 0
    assert {(i, j) for i, j in np.argwhere(kept).tolist() if i < j} == {
        (min(edge), max(edge)) for edge in topology.graph.edges
    }
    off = ~np.eye(len(graph), dtype=bool)
    np.testing.assert_array_equal(topology.pi[kept & off], base.pi[kept & off])
    values = np.random.default_rng(0).normal(size=len(graph))
    assert (topology.pi @ values).mean() == pytest.approx(values.mean(), abs=1e-12)


@settings(max_examples=30)
@given(connected_graphs(), SEEDS)
def test_dropout_keeps_the_mean_weighted_by_shard_size(graph: nx.Graph[int], seed: int) -> None:
    sizes = np.arange(1.0, len(graph) + 1)
    topology = Dropout(Topology("x", graph, shard_size(graph, sizes)), 0.5, seed).at(3)
    check_mixing_matrix(topology.pi, topology.graph, sizes)


@settings(max_examples=40)
@given(directed_graphs(), SEEDS)
def test_what_is_lost_one_way_stays_with_the_sender(graph: nx.DiGraph[int], seed: int) -> None:
    base = pushed(graph)
    network = Dropout(base, 0.5, seed)
    topology = network.at(0)
    check_pushing_matrix(topology.pi, topology.graph)
    for j in graph:
        lost = set(base.listeners(j)) - set(topology.listeners(j))
        assert topology.pi[j, j] == pytest.approx((1 + len(lost)) * base.pi[j, j])
    assert not network.doubly_stochastic


@settings(max_examples=20)
@given(connected_graphs(), SEEDS, st.permutations(range(20)))
def test_a_time_is_the_same_whichever_order_times_are_asked_for_in(
    graph: nx.Graph[int], seed: int, order: list[int]
) -> None:
    one, other = Dropout(mixed(graph), 0.4, seed), Dropout(mixed(graph), 0.4, seed)
    forward = {time: one.at(time).pi for time in range(20)}
    for time in order:
        np.testing.assert_array_equal(other.at(time).pi, forward[time])
        np.testing.assert_array_equal(one.at(time).pi, forward[time])


def test_edges_are_missing_independently_with_the_probability() -> None:
    network = build_topology("full", 12, dropout=0.3)
    pairs = np.triu_indices(12, 1)
    missing = np.stack([network.at(time).pi[pairs] == 0 for time in range(400)])
    assert missing.mean() == pytest.approx(0.3, abs=0.02)
    assert np.abs(missing.mean(0) - 0.3).max() < 0.12  # 5 standard deviations
    together = np.corrcoef(missing.T) - np.eye(66)
    assert np.abs(together).max() < 0.3


def test_dropout_has_a_seed_of_its_own() -> None:
    base = mixed(nx.complete_graph(9))
    edges = {frozenset(Dropout(base, 0.5, seed).at(0).graph.edges) for seed in range(10)}
    assert len(edges) == 10


def test_what_is_missing_depends_on_no_order_of_the_edges() -> None:
    edges = list(nx.complete_graph(6).edges)
    one, other = mixed(nx.Graph(edges)), mixed(nx.Graph([(j, i) for i, j in reversed(edges)]))
    for time in range(5):
        np.testing.assert_array_equal(
            Dropout(one, 0.5).at(time).pi, Dropout(other, 0.5).at(time).pi
        )


def test_no_dropout_is_the_network_itself_and_all_of_it_is_refused() -> None:
    assert isinstance(build_topology("ring", 5, dropout=0), Topology)
    assert isinstance(build_topology("alternating-matchings", 5, dropout=0), Periodic)
    for probability in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match=r"'topology.dropout' is .*: must be in \[0, 1\)"):
            build_topology("ring", 5, dropout=probability)


# --- how fast they mix ----------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=4), st.integers(2, 8))
def test_the_contraction_of_turns_is_the_second_singular_value_of_their_product(
    seeds: list[int], agents: int
) -> None:
    graphs = [nx.gnp_random_graph(agents, 0.4, seed=seed) for seed in seeds]
    network = Periodic("x", tuple(mixed(graph) for graph in graphs))
    values = np.linalg.svd(product(network, range(len(graphs))), compute_uv=False)
    expected = values[1] ** (1 / len(graphs)) if values[1] > 1e-12 else 0
    assert network.contraction == pytest.approx(expected, abs=1e-6)
    start = np.random.default_rng(0).normal(size=agents)
    end = product(network, range(len(graphs))) @ start
    shrunk = network.contraction ** len(graphs) * np.linalg.norm(start - start.mean())
    assert np.linalg.norm(end - start.mean()) <= shrunk + 1e-9


@settings(max_examples=15)
@given(connected_graphs(), SEEDS)
def test_the_contraction_of_dropout_is_that_of_the_mean_square(
    graph: nx.Graph[int], seed: int
) -> None:
    network, n = Dropout(mixed(graph), 0.3, seed), len(graph)
    drawn = [network.at(time).pi for time in range(200)]
    square = np.mean([pi.T @ pi for pi in drawn], axis=0) - np.full((n, n), 1 / n)
    expected = np.sqrt(max(np.linalg.eigvalsh(square)[-1], 0))
    assert network.contraction == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["directed-ring", "one-peer-exponential"])
@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_one_way_contracts_as_its_mean_square_does_in_the_long_run(
    name: str, dropout: float
) -> None:
    network = build_topology(name, 6, dropout=dropout)
    period = build_topology(name, 6).period or 0
    drawn = [product(network, range(k, k + period)) for k in range(0, 200 * period, period)]
    centered = [(np.eye(6) - 1 / 6) @ p for p in drawn]
    moments = np.linalg.eigvals(np.mean([np.kron(p, p) for p in centered], axis=0))
    expected = np.abs(moments).max() ** (1 / (2 * period))
    assert network.contraction == pytest.approx(expected, rel=2e-3)
    assert network.contraction > build_topology(name, 6).contraction


def test_the_contraction_of_weighted_turns_is_the_second_eigenvalue_of_their_product() -> None:
    network = build_topology(
        "alternating-matchings", 7, mixing="shard-size", shard_sizes=[1, 2, 3, 4, 5, 6, 7]
    )
    moduli = np.sort(np.abs(np.linalg.eigvals(product(network, range(3)))))
    assert not network.doubly_stochastic
    assert network.contraction == pytest.approx(moduli[-2] ** (1 / 3))


def test_one_turn_contracts_as_a_fixed_topology_does() -> None:
    ring = build_topology("ring", 7).at(0)
    assert Periodic("x", (ring,)).contraction == pytest.approx(ring.second_eigenvalue)
    assert Periodic("x", (ring, ring)).contraction == pytest.approx(ring.second_eigenvalue)


@pytest.mark.parametrize("name", ["one-peer-exponential", "alternating-matchings", "full"])
def test_one_agent_agrees_with_itself(name: str) -> None:
    alone = build_topology(name, 1, dropout=0.5)
    assert (alone.at(9).pi.tolist(), alone.contraction) == ([[1.0]], 0.0)


def test_losing_edges_slows_mixing_down() -> None:
    gaps = [build_topology("ring", 8, dropout=p).spectral_gap for p in (0, 0.2, 0.5, 0.9)]
    assert gaps == sorted(gaps, reverse=True)
