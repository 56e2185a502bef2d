"""Irregular graphs for laws: a wrong mixing matrix passes on a ring."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import strategies as st

PAW: nx.Graph[int] = nx.Graph([(0, 1), (0, 2), (1, 2), (2, 3)])


@st.composite
def connected_graphs(draw: st.DrawFn) -> nx.Graph[int]:
    """A random tree on 2 to 9 agents with some further edges."""
    n = draw(st.integers(2, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    graph: nx.Graph[int] = nx.empty_graph(n)
    graph.add_edges_from((i, int(random.integers(i))) for i in range(1, n))
    extra = random.integers(n, size=(int(random.integers(n)), 2))
    graph.add_edges_from((int(i), int(j)) for i, j in extra if i != j)
    return graph


@st.composite
def directed_graphs(draw: st.DrawFn) -> nx.DiGraph[int]:
    """A cycle through 2 to 9 agents in random order with some further one-way edges."""
    n = draw(st.integers(2, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    order = random.permutation(n).tolist()
    graph: nx.DiGraph[int] = nx.empty_graph(n, create_using=nx.DiGraph)
    graph.add_edges_from(zip(order, [*order[1:], order[0]], strict=True))
    extra = random.integers(n, size=(int(random.integers(2 * n)), 2)).tolist()
    graph.add_edges_from((i, j) for i, j in extra if i != j)
    return graph
