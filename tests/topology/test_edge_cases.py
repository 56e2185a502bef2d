"""Topologies at their edges: few agents, and spoiled edge files."""

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
    GraphOptions,
    Topology,
    build_topology,
    check_mixing_matrix,
    metropolis,
    shard_size,
)

THIRD = 1 / 3


@pytest.mark.parametrize("name", ["ring", "full", "star"])
def test_one_agent_listens_to_itself_only(name: str) -> None:
    alone = build_topology(name, 1)
    assert alone.pi.tolist() == [[1.0]]
    assert alone.neighbors(0) == []
    assert (alone.second_eigenvalue, alone.spectral_gap) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["ring", "full", "star"])
def test_two_agents_are_one_edge(name: str) -> None:
    pair = build_topology(name, 2)
    np.testing.assert_allclose(pair.pi, 0.5)
    assert (pair.neighbors(0), pair.neighbors(1)) == ([1], [0])
    assert pair.spectral_gap == pytest.approx(1)


def test_three_agents_in_a_ring_are_a_full_graph_and_in_a_star_a_path() -> None:
    for name in ("ring", "full"):
        np.testing.assert_allclose(build_topology(name, 3).pi, THIRD)
    expected = [[THIRD, THIRD, THIRD], [THIRD, 2 * THIRD, 0], [THIRD, 0, 2 * THIRD]]
    np.testing.assert_allclose(build_topology("star", 3).pi, expected)


@pytest.mark.parametrize("agents", [4, 5, 10, 20])
def test_in_a_ring_everyone_weighs_itself_and_two_neighbors_a_third(agents: int) -> None:
    steps = np.subtract.outer(np.arange(agents), np.arange(agents)) % agents
    expected = np.where(np.isin(steps, [0, 1, agents - 1]), THIRD, 0)
    np.testing.assert_allclose(build_topology("ring", agents).pi, expected)


def test_the_two_hubs_of_a_bipartite_graph_are_the_last_agents() -> None:
    topology = build_topology("bipartite", 7)
    for agent in range(5):
        assert topology.neighbors(agent) == [5, 6]
    assert topology.neighbors(5) == topology.neighbors(6) == [0, 1, 2, 3, 4]


@settings(max_examples=30)
@given(connected_graphs(), st.integers(0, 10**6))
def test_shard_size_mixing_is_in_detailed_balance_on_the_edges_alone(
    graph: nx.Graph[int], seed: int
) -> None:
    sizes = np.random.default_rng(seed).integers(1, 500, len(graph)).astype(float)
    pi = shard_size(graph, sizes)
    flow = sizes[:, None] * pi
    np.testing.assert_allclose(flow, flow.T, atol=1e-9)
    np.testing.assert_allclose(pi.sum(1), 1)
    assert (pi >= 0).all()
    assert {(i, j) for i, j in np.argwhere(pi > 0).tolist() if i < j} == {
        (min(e), max(e)) for e in graph.edges
    }


def test_shards_of_one_size_are_mixed_by_metropolis() -> None:
    np.testing.assert_allclose(shard_size(PAW, np.full(4, 37.0)), metropolis(PAW, np.ones(4)))


@settings(max_examples=30)
@given(connected_graphs())
def test_on_a_connected_graph_disagreement_shrinks_to_nothing(graph: nx.Graph[int]) -> None:
    topology = Topology("x", graph, metropolis(graph, np.ones(len(graph))))
    assert 0 < topology.spectral_gap <= 1
    values = np.random.default_rng(0).normal(size=len(graph))
    off = values - values.mean()
    mixed = topology.pi @ off
    assert np.linalg.norm(mixed) <= topology.second_eigenvalue * np.linalg.norm(off) + 1e-9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "edges.txt: cannot be read"),
        (b"\xff\xfe0 1", "edges.txt: cannot be read"),
        (b"0 1\n0 -1\n", r"edges.txt, line 2: '0 -1' is no edge; write two agents: 0 1"),
        (b"# none\n0\n", r"edges.txt, line 2: '0' is no edge"),
        (b"0,1\n", r"edges.txt, line 1: '0,1' is no edge"),
        (b"0 " + b"9" * 5_000, r"edges.txt, line 1: '0 9{78}' is no edge"),
        (b"0 1\n1 2\n", r"not connected: 2 parts, such as agents \[0, 1, 2\] and \[3\]"),
        (b"", "not connected: 4 parts"),
    ],
)
def test_a_spoiled_edge_file_is_refused_by_name(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "edges.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TopologyError, match=message):
        build_topology("edges", 4, options=GraphOptions(path=str(path)))


def test_an_edge_may_be_given_twice_and_either_way_round(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("0 1\n1 0\n2 1\n0 1\n")
    np.testing.assert_allclose(
        build_topology("edges", 3, options=GraphOptions(path=str(path))).pi,
        metropolis(nx.path_graph(3), np.ones(3)),
    )


def test_edges_without_a_file_name_the_missing_setting() -> None:
    with pytest.raises(ConfigError, match="'topology.path' is missing"):
        build_topology("edges", 4)


def test_uniform_mixing_of_a_star_is_refused_and_metropolis_offered() -> None:
    with pytest.raises(TopologyError, match="1 to 4 neighbors: use metropolis"):
        build_topology("star", 5, mixing="uniform")


@pytest.mark.parametrize("sizes", [None, [3, 0, 2], [3, -1, 2], [3, 2], [1, 2, float("nan")]])
def test_shard_size_mixing_needs_the_size_of_every_shard(sizes: list[int] | None) -> None:
    with pytest.raises(TopologyError, match="needs the shard size of every agent, > 0"):
        build_topology("ring", 3, mixing="shard-size", shard_sizes=sizes)


def test_a_negative_weight_is_refused_with_its_value() -> None:
    pi = metropolis(PAW, np.ones(4))
    pi[2, 3] = pi[3, 2] = -0.125
    pi[2, 2] += 0.375
    pi[3, 3] += 0.375
    with pytest.raises(TopologyError, match=r"nonnegative 4x4 matrix.*values from -0\.125"):
        check_mixing_matrix(pi, PAW)


def test_a_file_of_edges_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dimat.topology.edges._LONGEST", 6)
    (tmp_path / "edges.txt").write_text("0 1\n1 2\n")
    with pytest.raises(TopologyError, match="longer than 6 characters, no file of edges"):
        build_topology("edges", 3, options=GraphOptions(path=str(tmp_path / "edges.txt")))
