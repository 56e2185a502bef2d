"""Graphs and mixing matrices: the laws on irregular graphs, the known numbers, the refusals."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.graphs import PAW, connected_graphs

from dimat.errors import ConfigError, TopologyError
from dimat.topology import (
    MIXING,
    GraphOptions,
    Topology,
    build_topology,
    check_connected,
    check_mixing_matrix,
    metropolis,
    shard_size,
)
from dimat.topology.directed import DIRECTED
from dimat.topology.graphs import UNDIRECTED


@settings(max_examples=40)
@given(connected_graphs())
def test_metropolis_is_symmetric_and_doubly_stochastic_on_any_graph(graph: nx.Graph[int]) -> None:
    pi = metropolis(graph, np.ones(len(graph)))
    np.testing.assert_allclose(pi, pi.T)
    np.testing.assert_allclose(pi.sum(0), 1)
    assert (pi >= 0).all()
    assert (np.diag(pi) > 0).all()
    check_mixing_matrix(pi, graph)


@settings(max_examples=40)
@given(connected_graphs(), st.integers(0, 10**6))
def test_shard_size_mixing_keeps_the_mean_weighted_by_size(graph: nx.Graph[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 1000, len(graph)).astype(float)
    pi = shard_size(graph, sizes)
    check_mixing_matrix(pi, graph, sizes)
    values = random.normal(size=(len(graph), 3))
    np.testing.assert_allclose(sizes @ (pi @ values), sizes @ values, atol=1e-9 * sizes.sum())


@pytest.mark.parametrize(("agents", "second"), [(5, 0.539), (10, 0.873), (20, 0.967)])
def test_the_ring_has_the_known_second_eigenvalue(agents: int, second: float) -> None:
    ring = build_topology("ring", agents)
    assert ring.second_eigenvalue == pytest.approx(second, abs=6e-4)
    assert ring.spectral_gap == pytest.approx(1 - second, abs=6e-4)
    assert ring.pi[0, [0, 1, agents - 1]] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", sorted({**UNDIRECTED, **DIRECTED}))
@pytest.mark.parametrize("agents", [1, 2, 3, 4, 6, 12])
def test_every_topology_is_connected_and_mixes_soundly(name: str, agents: int) -> None:
    if name == "bipartite" and agents < 3:
        with pytest.raises(TopologyError, match="2 hubs"):
            build_topology(name, agents)
        return
    topology = build_topology(name, agents).at(0)
    assert topology.num_agents == agents
    assert not list(nx.selfloop_edges(topology.graph))
    assert topology.doubly_stochastic
    hears = {(i, j) for i in range(agents) for j in topology.neighbors(i)}
    assert hears == {(i, j) for j in range(agents) for i in topology.listeners(j)}
    assert name in DIRECTED or hears == {(j, i) for i, j in hears}


def test_degrees_are_those_of_the_named_graphs() -> None:
    def degrees(name: str, n: int) -> list[int]:
        return [len(build_topology(name, n).neighbors(i)) for i in range(n)]

    assert degrees("ring", 6) == [2] * 6
    assert degrees("full", 5) == [4] * 5
    assert degrees("star", 5) == [4, 1, 1, 1, 1]
    assert degrees("torus", 9) == [4] * 9
    assert degrees("exponential", 16) == [7] * 16  # ±1, ±2, ±4, and 8 which is its own opposite
    assert degrees("bipartite", 6) == [2, 2, 2, 2, 4, 4]


def test_a_torus_of_a_prime_is_refused() -> None:
    with pytest.raises(TopologyError, match="a torus of 7 agents is only a ring"):
        build_topology("torus", 7)


def test_an_edge_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "paw.txt"
    path.write_text("# the paw\n0 1\n0 2\n1 2  # triangle\n\n2 3\n")
    topology = build_topology("edges", 4, options=GraphOptions(path=str(path)))
    assert nx.utils.graphs_equal(topology.graph, PAW)
    assert topology.pi[2].tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n0 x\n", r"line 2: '0 x' is no edge"),
        ("0 1 2\n", r"line 1: '0 1 2' is no edge"),
        ("0 1\n1 9\n", r"line 2: an edge joins two of the agents 0\.\.3, not 1 and 9"),
        ("1 1\n", "not 1 and 1"),
        ("0 1\n2 3\n", r"not connected: 2 parts, such as agents \[0, 1\] and \[2, 3\]"),
    ],
)
def test_a_bad_edge_file_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "edges.txt"
    path.write_text(text)
    with pytest.raises(TopologyError, match=message):
        build_topology("edges", 4, options=GraphOptions(path=str(path)))


def test_uniform_mixing_is_refused_on_an_irregular_graph() -> None:
    with pytest.raises(TopologyError, match="uniform.*1 to 3 neighbors: use metropolis"):
        MIXING["uniform"](PAW, np.ones(4))
    np.testing.assert_allclose(build_topology("full", 5, mixing="uniform").pi, 0.2)


def matrix(**entries: float) -> np.ndarray:
    pi = metropolis(PAW, np.ones(4))
    for place, value in entries.items():
        i, j = int(place[1]), int(place[2])
        pi[i, j] += value
    return pi


@pytest.mark.parametrize(
    ("pi", "message"),
    [
        (matrix(p00=-1 / 3), "row 0 of the mixing matrix sums to 0.666667, not 1"),
        (matrix(p01=0.1, p00=-0.1), "not symmetric: agents 0 and 1 weigh each other"),
        (matrix(p03=0.1, p30=0.1, p00=-0.1, p33=-0.1), "agents 0 and 3, who share no edge"),
        (matrix(p00=-1, p01=1), "nonnegative"),
        (np.full((4, 4), np.nan), "finite"),
        (np.eye(3), "4x4 matrix, not 3x3"),
    ],
)
def test_a_mixing_matrix_that_breaks_its_rules_is_refused(pi: np.ndarray, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        check_mixing_matrix(pi, PAW)


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="'topology.name' is 'rnig'.*did you mean 'ring'"):
        build_topology("rnig", 5)
    with pytest.raises(ConfigError, match="'topology.mixing'.*did you mean 'metropolis'"):
        build_topology("ring", 5, mixing="metropoli")
    with pytest.raises(TopologyError, match="'agents' is 0"):
        build_topology("ring", 0)
    with pytest.raises(TopologyError, match="shard size of every agent"):
        build_topology("ring", 3, mixing="shard-size", shard_sizes=[1, 2])


def test_a_connected_graph_passes() -> None:
    check_connected(PAW)


def test_an_edge_of_a_directed_graph_leads_from_the_speaker_to_the_listener() -> None:
    graph = nx.DiGraph([(0, 1), (0, 2), (1, 2), (2, 0)])
    pi = np.array([[0.5, 0, 0.5], [0.5, 0.5, 0], [0.25, 0.25, 0.5]])
    topology = Topology("x", graph, pi)
    assert [topology.neighbors(i) for i in range(3)] == [[2], [0], [0, 1]]
    assert [topology.listeners(i) for i in range(3)] == [[1, 2], [2], [0]]
    assert (topology.directed, topology.doubly_stochastic) == (True, False)


@settings(max_examples=20)
@given(connected_graphs())
def test_on_an_undirected_graph_an_agent_hears_whom_it_is_heard_by(graph: nx.Graph[int]) -> None:
    topology = Topology("x", graph, metropolis(graph, np.ones(len(graph))))
    assert all(topology.neighbors(i) == topology.listeners(i) for i in graph)
    assert (topology.directed, topology.doubly_stochastic) == (False, True)
    assert topology.at(7) is topology
