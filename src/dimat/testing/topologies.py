"""What every graph of agents keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import networkx as nx
import numpy as np

from dimat.errors import TopologyError
from dimat.testing.laws import keeps, those_there
from dimat.topology import TOPOLOGIES, Network, check_connected
from dimat.topology.build import network_of

_SIZES = (1, 2, 3, 4, 6, 9, 12)
Make = Callable[..., Network]


def check_topology(build: str | Callable[..., Any]) -> None:
    """Check that a graph of agents keeps the laws that dimat's graphs keep.

    Args:
        build: As it is registered: a function of the number of agents; or its name.

    Raises:
        AssertionError: Naming the law that is broken.
        ConfigError: If it cannot be registered.
    """
    name = build if isinstance(build, str) else getattr(build, "__name__", "mine")
    function = TOPOLOGIES[build] if isinstance(build, str) else TOPOLOGIES.prepared("mine", build)
    make = partial(network_of, name, function)
    sizes = those_there(make, _SIZES, TopologyError, "it is a graph of")
    for agents in sizes:
        keeps(LAWS, make, agents)


def its_agents_are_all_there_and_connected(make: Make, agents: int) -> None:
    """The nodes are 0 … n-1, none with an edge to itself, and news reaches everyone."""
    network = make(agents)
    assert network.num_agents == agents
    assert set(network.graph) == set(range(agents))
    assert not list(nx.selfloop_edges(network.graph))
    check_connected(network.graph)


def it_is_the_same_whenever_it_is_built(make: Make, agents: int) -> None:
    """The same graph comes of the same number of agents: all processes build their own."""
    first, second = make(agents), make(agents)
    for time in range(first.period or 8):
        a, b = first.at(time), second.at(time)
        assert sorted(a.graph.edges) == sorted(b.graph.edges)
        np.testing.assert_array_equal(a.pi, b.pi)


def who_is_heard_hears_of_it(make: Make, agents: int) -> None:
    """Whom i hears has i among its listeners, at every time."""
    network = make(agents)
    for time in range(network.period or 8):
        topology = network.at(time)
        hears = {(i, j) for i in range(agents) for j in topology.neighbors(i)}
        assert hears == {(i, j) for j in range(agents) for i in topology.listeners(j)}
        assert network.directed or hears == {(j, i) for i, j in hears}


def it_mixes(make: Make, agents: int) -> None:
    """The mixing matrix keeps the sum, and shrinks disagreement."""
    network = make(agents)
    for time in range(network.period or 8):
        np.testing.assert_allclose(network.at(time).pi.sum(0), 1)
    assert 0 <= network.contraction < 1


def edges_may_drop_out(make: Make, agents: int) -> None:
    """With edges missing at times, those that are left are edges of the graph."""
    network = make(agents, dropout=0.3)
    assert all(set(network.at(t).graph.edges) <= set(network.graph.edges) for t in range(8))


LAWS: tuple[Callable[[Make, int], None], ...] = (
    its_agents_are_all_there_and_connected,
    it_is_the_same_whenever_it_is_built,
    who_is_heard_hears_of_it,
    it_mixes,
    edges_may_drop_out,
)
