"""Directed graphs: who hears whom, and matrices that keep the sum of what is pushed."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.graphs import connected_graphs, directed_graphs

from dimat.errors import ConfigError, TopologyError
from dimat.topology import (
    GraphOptions,
    Matrix,
    Topology,
    build_topology,
    check_connected,
    check_pushing_matrix,
    push,
)


def pushed(graph: nx.Graph[int]) -> Topology:
    return Topology("x", graph, push(graph, np.ones(len(graph))))


@settings(max_examples=40)
@given(directed_graphs())
def test_everyone_splits_what_it_has_equally_among_itself_and_its_listeners(
    graph: nx.DiGraph[int],
) -> None:
    topology = pushed(graph)
    check_pushing_matrix(topology.pi, graph)
    for j in graph:
        shares = topology.pi[[j, *topology.listeners(j)], j]
        np.testing.assert_allclose(shares, 1 / len(shares))
    np.testing.assert_allclose(topology.pi.sum(0), 1)
    assert np.count_nonzero(topology.pi) == len(graph) + graph.number_of_edges()


@settings(max_examples=40)
@given(directed_graphs(), st.integers(0, 10**6))
def test_push_sum_finds_the_mean_on_any_strongly_connected_graph(
    graph: nx.DiGraph[int], seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=len(graph))
    many = np.linalg.matrix_power(pushed(graph).pi, 3000)
    np.testing.assert_allclose(many @ values / many.sum(1), values.mean(), atol=1e-9)


@settings(max_examples=40)
@given(directed_graphs())
def test_neighbors_are_rows_and_listeners_are_columns(graph: nx.DiGraph[int]) -> None:
    topology = pushed(graph)
    off = topology.pi - np.diag(np.diag(topology.pi))
    for i in graph:
        assert topology.neighbors(i) == np.flatnonzero(off[i]).tolist()
        assert topology.listeners(i) == np.flatnonzero(off[:, i]).tolist()
    balanced = all(graph.in_degree(i) == graph.out_degree(i) for i in graph)
    regular = balanced and len({degree for _, degree in graph.out_degree}) == 1
    assert topology.doubly_stochastic or not regular


@settings(max_examples=20)
@given(connected_graphs())
def test_pushing_on_an_undirected_graph_keeps_the_sum_too(graph: nx.Graph[int]) -> None:
    check_pushing_matrix(push(graph, np.ones(len(graph))), graph)


@pytest.mark.parametrize(
    ("name", "agents", "heard"),
    [
        ("directed-ring", 5, [4]),
        ("directed-ring", 2, [1]),
        ("directed-exponential", 8, [4, 6, 7]),
        ("directed-exponential", 6, [2, 4, 5]),
    ],
)
def test_the_named_directed_graphs_hear_whom_they_say(
    name: str, agents: int, heard: list[int]
) -> None:
    topology = build_topology(name, agents).at(0)
    assert topology.neighbors(0) == heard
    for i in range(agents):
        assert topology.neighbors(i) == sorted((j + i) % agents for j in heard)
    assert (topology.directed, topology.doubly_stochastic) == (True, True)
    assert topology.pi[0, 0] == 1 / (1 + len(heard))


def test_of_a_line_in_a_directed_edge_file_the_second_hears_the_first(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("0 1\n1 2\n2 0\n0 2\n")
    topology = build_topology("edges", 3, options=GraphOptions(str(path), directed=True)).at(0)
    assert [topology.neighbors(i) for i in range(3)] == [[2], [0], [0, 1]]
    third = 1 / 3
    expected = [[third, 0, 0.5], [third, 0.5, 0], [third, 0.5, 0.5]]
    np.testing.assert_allclose(topology.pi, expected)
    assert not topology.doubly_stochastic


def test_a_directed_graph_that_news_cannot_cross_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edges.txt"
    path.write_text("0 1\n1 0\n1 2\n")
    with pytest.raises(TopologyError, match=r"not strongly connected: 2 parts.*\[0, 1\] and \[2\]"):
        build_topology("edges", 3, options=GraphOptions(str(path), directed=True))
    check_connected(nx.DiGraph([(0, 1), (1, 2), (2, 0)]))


@pytest.mark.parametrize("rule", ["metropolis", "uniform", "shard-size"])
def test_a_rule_for_undirected_graphs_is_refused_on_a_directed_one(rule: str) -> None:
    with pytest.raises(ConfigError, match=f"mixing' is '{rule}'.*use push or auto"):
        build_topology("directed-ring", 4, mixing=rule, shard_sizes=[1, 2, 3, 4])


def test_auto_is_metropolis_or_push_as_the_graph_is() -> None:
    for name, rule in [("star", "metropolis"), ("directed-exponential", "push")]:
        auto, named = build_topology(name, 6), build_topology(name, 6, mixing=rule)
        np.testing.assert_array_equal(auto.at(0).pi, named.at(0).pi)
    star = build_topology("star", 5, mixing="push")
    assert (star.directed, star.doubly_stochastic) == (False, False)


def pi(**entries: float) -> Matrix:
    matrix = push(nx.DiGraph([(0, 1), (1, 2), (2, 0)]), np.ones(3))
    for place, value in entries.items():
        matrix[int(place[1]), int(place[2])] += value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (pi(p00=0.25), "column 0 of the mixing matrix sums to 1.25, not 1"),
        (pi(p01=0.25, p11=-0.25), "a weight for agents 0 and 1, who share no edge"),
        (pi(p10=-1, p00=1), "nonnegative"),
        (np.eye(2), "3x3 matrix, not 2x2"),
    ],
)
def test_a_pushing_matrix_that_breaks_its_rules_is_refused(matrix: Matrix, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        check_pushing_matrix(matrix, nx.DiGraph([(0, 1), (1, 2), (2, 0)]))
