"""Random graphs: what they are drawn from, the same for the same seed, connected or refused."""

from __future__ import annotations

from random import Random

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimat.errors import TopologyError
from dimat.topology import DRAWN, GraphOptions, build_topology, erdos_renyi, random_regular


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(0, 8), st.integers(0, 10**6))
def test_in_a_random_regular_graph_everyone_has_the_same_degree(
    degree: int, more: int, seed: int
) -> None:
    agents = degree + 1 + more
    agents += agents * degree % 2
    if degree == 2:
        agents = min(agents, 6)  # two cycles are likelier than one among many
    graph = random_regular(agents, GraphOptions(degree=degree, seed=seed))
    assert [d for _, d in graph.degree] == [degree] * agents
    assert list(graph) == list(range(agents))
    assert nx.is_connected(graph)


def test_an_erdos_renyi_graph_has_each_edge_with_its_probability() -> None:
    options = [GraphOptions(probability=0.3, seed=seed) for seed in range(20)]
    edges = [erdos_renyi(40, option).number_of_edges() for option in options]
    assert np.mean(edges) / (40 * 39 / 2) == pytest.approx(0.3, abs=0.02)
    assert len(set(edges)) > 5
    assert erdos_renyi(5, GraphOptions(probability=1)).number_of_edges() == 10


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_the_same_seed_draws_the_same_graph(name: str) -> None:
    def edges(seed: int) -> list[tuple[int, int]]:
        return list(build_topology(name, 12, options=GraphOptions(seed=seed)).graph.edges)

    assert edges(3) == edges(3)
    assert len({tuple(edges(seed)) for seed in range(10)}) == 10


def test_a_graph_is_drawn_until_it_is_connected() -> None:
    def first(seed: int) -> bool:
        return bool(nx.is_connected(nx.gnp_random_graph(8, 0.25, seed=Random(seed))))

    seeds = range(20)
    assert not all(map(first, seeds))
    graphs = [erdos_renyi(8, GraphOptions(probability=0.25, seed=seed)) for seed in seeds]
    assert all(map(nx.is_connected, graphs))


@pytest.mark.parametrize(
    ("name", "agents", "options", "message"),
    [
        ("random-regular", 4, GraphOptions(degree=4), "is 4: 4 agents have at most 3 neighbors"),
        ("random-regular", 4, GraphOptions(degree=-2), "degree' is -2"),
        (
            "random-regular",
            5,
            GraphOptions(degree=3),
            "5 agents of 3 .*the two must be even",
        ),
        ("random-regular", 6, GraphOptions(degree=1), "none connected, with .*degree 1: use >= 3"),
        (
            "erdos-renyi",
            50,
            GraphOptions(probability=0.01),
            r"none connected, with topology.probability 0\.01: use more than ln\(n\)/n = 0\.08",
        ),
    ],
)
def test_a_graph_that_cannot_be_drawn_is_refused_with_a_way_out(
    name: str, agents: int, options: GraphOptions, message: str
) -> None:
    with pytest.raises(TopologyError, match=message):
        build_topology(name, agents, options=options)


def test_one_agent_can_be_drawn_alone() -> None:
    assert build_topology("erdos-renyi", 1).at(0).pi.tolist() == [[1]]
    options = GraphOptions(degree=0)
    assert build_topology("random-regular", 1, options=options).at(0).pi.tolist() == [[1]]
