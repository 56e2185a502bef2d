"""Who follows whom: every agent is reached once, and what was in one order stays so."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.graphs import PAW, connected_graphs

from dimat.methods.gauge import GaugeId
from dimat.methods.ordering.plan import make_plan

SHARED = [GaugeId(5, 1), GaugeId(1, 4), GaugeId(2, 2)]


@st.composite
def situations(draw: st.DrawFn) -> tuple[nx.Graph[int], dict[int, GaugeId]]:
    """A connected graph whose agents are in a few shared gauges, or each in its own."""
    graph = draw(connected_graphs())
    kinds = [draw(st.integers(0, len(SHARED))) for _ in graph]
    return graph, {i: (SHARED[k] if k < len(SHARED) else GaugeId(i)) for i, k in enumerate(kinds)}


@given(connected_graphs())
@settings(max_examples=30)
def test_when_nobody_shares_an_order_all_follow_the_center_breadth_first(
    graph: nx.Graph[int],
) -> None:
    center = min(nx.center(graph))
    tree = nx.bfs_edges(graph, center, sort_neighbors=sorted)
    plan = make_plan(graph, {i: GaugeId(i) for i in graph}, 3)
    assert plan is not None
    assert plan.gauge == GaugeId(center, 3)
    assert plan.parents == {child: parent for parent, child in tree}
    assert plan.crossings == set(plan.parents)
    assert plan.alone == set(graph)


@given(situations())
@settings(max_examples=30)
def test_the_plan_is_the_same_at_every_agent_in_whichever_order_it_has_the_edges(
    situation: tuple[nx.Graph[int], dict[int, GaugeId]],
) -> None:
    graph, ids = situation
    shuffled: nx.Graph[int] = nx.Graph()
    shuffled.add_nodes_from(sorted(graph, reverse=True))
    shuffled.add_edges_from((j, i) for i, j in reversed(list(graph.edges)))
    assert make_plan(shuffled, ids, 3) == make_plan(graph, ids, 3)


@given(situations())
@settings(max_examples=60)
def test_every_agent_is_reached_over_edges_and_clusters_are_entered_once(
    situation: tuple[nx.Graph[int], dict[int, GaugeId]],
) -> None:
    graph, ids = situation
    plan = make_plan(graph, ids, 7)
    if plan is None:
        assert len(set(ids.values())) == 1
        return
    roots = set(graph) - set(plan.parents)
    assert roots == {i for i in graph if ids[i] == plan.gauge} or roots == {plan.gauge.root}
    assert all(graph.has_edge(i, up) for i, up in plan.parents.items())
    for i in graph:  # everyone comes from a root, in at most as many steps as there are agents
        steps = 0
        while i in plan.parents:
            i, steps = plan.parents[i], steps + 1
            assert steps < len(graph)
    same = nx.Graph([(i, j) for i, j in graph.edges if ids[i] == ids[j]])
    for cluster in nx.connected_components(same):
        assert len(cluster & plan.crossings) == (0 if cluster & roots else 1)


@given(situations())
@settings(max_examples=60)
def test_nobody_of_the_gauge_that_stays_moves_or_is_refined(
    situation: tuple[nx.Graph[int], dict[int, GaugeId]],
) -> None:
    """Others of it may be out of reach in this round, and count on the order."""
    graph, ids = situation
    plan = make_plan(graph, ids, 7)
    if plan is not None:
        staying = {i for i in graph if ids[i] == plan.gauge}
        assert not staying & (plan.alone | set(plan.parents))


@given(situations(), st.randoms())
@settings(max_examples=30)
def test_the_plan_does_not_depend_on_who_makes_it(
    situation: tuple[nx.Graph[int], dict[int, GaugeId]], random: object
) -> None:
    graph, ids = situation
    edges, agents = list(graph.edges), list(ids)
    random.shuffle(edges)  # type: ignore[attr-defined]
    random.shuffle(agents)  # type: ignore[attr-defined]
    other = nx.Graph(edges)
    assert make_plan(graph, ids, 2) == make_plan(other, {i: ids[i] for i in agents}, 2)


def test_a_shared_order_stays_where_it_meets_one_that_nobody_shares() -> None:
    plan = make_plan(PAW, {0: GaugeId(0), 1: GaugeId(9, 1), 2: GaugeId(9, 1), 3: GaugeId(3)}, 5)
    assert plan is not None
    assert plan.gauge == GaugeId(9, 1)
    assert plan.parents == {0: 1, 3: 2}
    assert plan.alone == {0, 3}
    assert [sorted(plan.needs(i, sorted(PAW[i]))) for i in PAW] == [[1, 2], [], [], [2]]
    compared = [plan.compares(i, sorted(PAW[i]), PAW) for i in range(4)]
    assert compared == [[1, 2], [0], [0, 3], [2]]  # both ends, where they are to be pooled


def test_where_two_orders_meet_the_lower_stays_and_the_other_moves_as_one() -> None:
    path: nx.Graph[int] = nx.path_graph(6)
    ids = {i: GaugeId(4, 1) if i < 3 else GaugeId(2, 1) for i in path}
    plan = make_plan(path, ids, 5)
    assert plan is not None
    assert plan.gauge == GaugeId(2, 1)
    assert plan.parents == {2: 3, 1: 2, 0: 1}
    assert (plan.crossings, plan.alone) == ({2}, frozenset())


@pytest.mark.parametrize("n", [1, 4])
def test_in_one_order_nothing_is_planned(n: int) -> None:
    assert make_plan(nx.path_graph(n), {i: GaugeId(1, 1) for i in range(n)}, 2) is None
