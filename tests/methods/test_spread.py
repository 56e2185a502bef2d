"""An order that spreads from neighbor to neighbor, and ends up everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.graphs import PAW, connected_graphs, directed_graphs
from tests.methods.agents import Agents, agents_of, irregular, merge
from tests.methods.lossy import Losses, merge_over
from torch.func import functional_call

from dimat.errors import ConfigError
from dimat.experiment.config.config import MatchingConfig
from dimat.experiment.config.methods import gauge_of
from dimat.matching.assignment import assign
from dimat.matching.fit import fit
from dimat.merging import mix
from dimat.methods import Dimat, RoundContext, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.methods.ordering.pooled import local_scores, measure_edges
from dimat.methods.ordering.spread import seniority
from dimat.state import State, num_bytes
from dimat.symmetry import Permutation
from dimat.topology import Topology

SPREAD = Dimat("spread")
Ids = Mapping[int, GaugeId | None]


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def own(request: pytest.FixtureRequest) -> Agents:
    return agents_of(request.param)


@cache
def mlp() -> Agents:
    return agents_of("mlp")


def copies(own: Agents, n: int) -> list[State]:
    """One network, each time in another unit order."""
    return own.shuffled([own.perturbed(1)[0]] * n)


def rounds(
    own: Agents,
    states: Sequence[State],
    graph: nx.Graph[int],
    numbers: Sequence[int],
    known: Ids | None = None,
    losses: Callable[[int], Losses] = lambda number: Losses(),
) -> tuple[list[State], dict[int, GaugeId | None]]:
    """States and orders after some rounds of merging alone."""
    them, ids = list(states), dict(known or {})
    for number in numbers:
        merged = merge_over(losses(number), SPREAD, own.members(them, graph, number, ids))
        for i, m in enumerate(merged):
            before = ids.get(i)
            assert m.gauge is not None
            assert before is None or seniority(m.gauge) <= seniority(before)
        them, ids = [m.state for m in merged], {i: m.gauge for i, m in enumerate(merged)}
    return them, ids


def same_function(own: Agents, found: Sequence[State], expected: State) -> None:
    x = torch.randn(16, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for state in found:
        torch.testing.assert_close(
            functional_call(own.model, state, x),
            functional_call(own.model, expected, x),
            rtol=1e-8,
            atol=1e-8,
        )


def alike(them: Sequence[State]) -> None:
    for state in them[1:]:
        torch.testing.assert_close(state, them[0])


@settings(max_examples=15)
@given(connected_graphs())
def test_an_order_goes_one_hop_a_round_and_copies_stay_what_they_are(graph: nx.Graph[int]) -> None:
    them, ids = copies(mlp(), len(graph)), {}
    far = nx.eccentricity(graph, 0)
    for number in range(1, far + 1):
        them, ids = rounds(mlp(), them, graph, [number], ids)
        for i in graph:
            near = nx.single_source_shortest_path_length(graph, i, cutoff=number)
            assert ids[i] == min((GaugeId(j, 1) for j in near), key=seniority)
        same_function(mlp(), them, copies(mlp(), 1)[0])
    assert set(ids.values()) == {GaugeId(0, 1)}
    alike(them)


def test_on_a_ring_in_the_order_of_numbers_an_agent_changes_its_order_a_few_times() -> None:
    """And not in each of the n / 2 rounds that it takes an order to come around."""
    n = 500
    ids = [GaugeId(i, 1) for i in range(n)]
    changes = np.zeros(n, int)
    for _ in range(n // 2):
        new = [min(ids[i - 1], ids[i], ids[(i + 1) % n], key=seniority) for i in range(n)]
        changes += [a != b for a, b in zip(new, ids, strict=True)]
        ids = new
    assert len(set(ids)) == 1
    assert changes.max() <= 2 * np.log(n)


@given(st.lists(st.tuples(*[st.integers(0, 2**40)] * 3), unique=True, min_size=2, max_size=5))
def test_of_two_orders_one_is_always_the_older(parts: list[tuple[int, int, int]]) -> None:
    """Every agent decides by itself; numbers that scatter to one place are no tie."""
    orders = [GaugeId(*own) for own in parts] + [GaugeId(own[0] + 2**32, *own[1:]) for own in parts]
    assert len({seniority(own) for own in orders}) == len(set(orders))
    first = min(orders, key=seniority)
    assert first.generation == min(own.generation for own in orders)


def test_the_root_stays_and_each_agent_moves_by_one_permutation(own: Agents) -> None:
    before = copies(own, 4)
    them, _ = rounds(own, before, PAW, [1, 2])
    torch.testing.assert_close(them[3], before[0])
    torch.testing.assert_close(them[0], before[0])


def test_an_agent_mixes_with_who_is_in_the_order_it_comes_into_and_with_nobody_else(
    own: Agents,
) -> None:
    """Of different models: agents 1 and 2 follow 0, which nobody has joined yet; 3 follows 2."""
    before = own.shuffled(own.perturbed(4))
    them = own.members(before, PAW)
    merged, _ = merge(SPREAD, them)
    torch.testing.assert_close(merged[0].state, before[0], rtol=0, atol=0)
    assert merged[0].disagreement is None
    for i, leader in ((1, 0), (2, 0), (3, 2)):
        move = merged[i].permutation
        assert move is not None
        moved = own.analysis.symmetry.apply(move, before[i])
        share = float(them[i].topology.pi[i, leader])
        expected = mix([moved, before[leader]], [1 - share, share])
        torch.testing.assert_close(merged[i].state, expected)
        assert merged[i].report.alignments == {}
        assert merged[i].gauge == GaugeId(leader, 1)


def test_once_all_are_in_one_order_nothing_is_matched_and_the_mean_is_kept(own: Agents) -> None:
    them, ids = rounds(own, own.shuffled(own.perturbed(4)), PAW, [1, 2])
    members = own.members(them, PAW, 3, ids)
    merged, traffic = merge(SPREAD, members)
    for key in own.parameters:
        mean = torch.stack([s[key] for s in them]).mean(0)
        torch.testing.assert_close(torch.stack([m.state[key] for m in merged]).mean(0), mean)
    for me, m, count in zip(members, merged, traffic, strict=True):
        assert (m.report.match_s, m.permutation) == (0.0, None)
        assert count.sent_bytes == len(me.neighbors) * (num_bytes(me.state) + 24)


@pytest.mark.parametrize("late", [1, 3])
def test_when_a_partition_heals_the_older_order_wins_and_of_one_age_that_of_lower_scatter(
    own: Agents, late: int
) -> None:
    """Agents 0 to 3 are a part that came together in round 1, or later than the other, in 3."""
    parts = nx.disjoint_union(PAW, nx.complete_graph(3))
    them = copies(own, 7)
    _, first = rounds(own, them, parts, [late, late + 1])
    second_states, second = rounds(own, them, parts, [1, 2])
    first_states, _ = rounds(own, them, parts, [late, late + 1])
    them = [*first_states[:4], *second_states[4:]]
    ids = {i: (first if i < 4 else second)[i] for i in range(7)}
    assert set(ids.values()) == {GaugeId(0, late), GaugeId(5, 1)}
    healed = parts.copy()
    healed.add_edges_from([(3, 4), (1, 6)])
    them, ids = rounds(own, them, healed, range(5, 8), ids)
    assert set(ids.values()) == {GaugeId(0, 1) if late == 1 else GaugeId(5, 1)}
    alike(them)
    same_function(own, them, copies(own, 1)[0])


def test_an_order_outlives_its_root_and_who_takes_its_place_joins_it(own: Agents) -> None:
    them, ids = rounds(own, copies(own, 4), PAW, [1, 2])
    gone = Losses(lambda j, i, k: 0 in (i, j))
    them, ids = rounds(own, them, PAW, [3, 4], ids, lambda number: gone)
    assert set(ids.values()) == {GaugeId(0, 1)}
    new = own.shuffled(copies(own, 1), seed=9)[0]
    members = own.members([new, *them[1:]], PAW, 5, {**ids, 0: None})
    merged, _ = merge(SPREAD, members)
    assert [m.gauge for m in merged] == [GaugeId(0, 1)] * 4
    assert [m.permutation is not None for m in merged] == [True, False, False, False]
    alike([m.state for m in merged])


def test_who_comes_back_with_an_id_that_nobody_has_any_more_moves(own: Agents) -> None:
    first, stale = rounds(own, copies(own, 4), PAW, [1])
    assert stale[3] == GaugeId(2, 1)
    them, ids = rounds(own, first, PAW, [2, 3], stale)
    back = [*them[:3], first[3]]
    merged, _ = merge(SPREAD, own.members(back, PAW, 9, {**ids, 3: stale[3]}))
    assert merged[3].gauge == GaugeId(0, 1)
    alike([m.state for m in merged])


@settings(max_examples=10)
@given(connected_graphs(), st.integers(0, 2**32 - 1))
def test_messages_that_are_lost_delay_an_order_and_do_no_harm(
    graph: nx.Graph[int], seed: int
) -> None:
    """One-sided losses, half of all messages, in six rounds; ids only get older (see rounds)."""

    def losses(number: int) -> Losses:
        random = np.random.default_rng([seed, number]).random((len(graph), len(graph)))
        return Losses(lambda j, i, k: bool(random[j, i] < 0.5))

    them, ids = rounds(mlp(), copies(mlp(), len(graph)), graph, range(1, 7), None, losses)
    same_function(mlp(), them, copies(mlp(), 1)[0])
    far = nx.diameter(graph)
    them, ids = rounds(mlp(), them, graph, range(7, 7 + far), ids)
    assert set(ids.values()) == {GaugeId(0, 1)}
    alike(them)


@settings(max_examples=10)
@given(directed_graphs())
def test_on_a_directed_graph_it_spreads_the_way_messages_go(graph: nx.DiGraph[int]) -> None:
    n = len(graph)
    hears = nx.to_numpy_array(graph, nodelist=range(n)).T + np.eye(n)
    topology = Topology("one-way", graph, hears / hears.sum(1, keepdims=True))
    assert SPREAD.needs == {"rows"}
    them, ids = copies(mlp(), n), dict.fromkeys(range(n))
    for number in range(1, n):
        members = [
            RoundContext(i, number, s, topology, mlp().parameters, lambda: mlp().analysis,
                   lambda i=i: mlp().batches(i), ids[i])  # type: ignore[misc]
            for i, s in enumerate(them)
        ]  # fmt: skip
        merged: list[RoundResult] = merge(SPREAD, members)[0]
        them, ids = [m.state for m in merged], {i: m.gauge for i, m in enumerate(merged)}
    assert set(ids.values()) == {GaugeId(0, 1)}
    alike(them)


@pytest.mark.parametrize("seed", range(3))
def test_who_hears_several_of_an_order_is_matched_to_all_of_them_as_it_mixes_them(
    own: Agents, seed: int
) -> None:
    """Neighbors that have little in common: no match with one of them is as good for all."""
    method = replace(SPREAD, null_margin=None)
    graph = irregular(seed)
    joiner = max(graph, key=graph.degree)
    states = own.shuffled(own.perturbed(6, by=1.0))
    ids: Ids = {i: None if i == joiner else GaugeId(0, 1) for i in graph}
    me = own.members(states, graph, 2, ids)[joiner]
    merged, _ = merge(method, own.members(states, graph, 2, ids))
    move, symmetry = merged[joiner].permutation, own.analysis.symmetry
    assert move is not None
    others = {j: states[j] for j in me.neighbors}
    moments = measure_edges(own.analysis, me.state, others, me.batches())
    scores = {j: local_scores(seen) for j, seen in moments.items()}
    weights = dict(zip(me.neighbors, me.weights[1:], strict=True))

    def total(permutation: Permutation) -> float:
        return sum(
            weights[j] * float(score.sum())
            for j, own_scores in scores.items()
            for score in fit(symmetry, own_scores, permutation).similarities.values()
        )

    for score in scores.values():
        assert total(move) > total(assign(symmetry, score)) + 1e-9


def test_auto_is_what_all_agents_can_do_together_or_apart() -> None:
    assert gauge_of(MatchingConfig()) == "spread"
    assert gauge_of(MatchingConfig(), once=True) == "tree"
    assert gauge_of(MatchingConfig(), apart=True) == "spread"
    assert gauge_of(MatchingConfig(gauge="pairwise"), apart=True) == "pairwise"


@pytest.mark.parametrize(
    ("matching", "complaint"),
    [
        (MatchingConfig(statistics="pooled"), "'matching.statistics' .*must be local where agents"),
        (MatchingConfig(every=2), "'matching.every' .*must be 0 where agents"),
    ],
)
def test_what_takes_all_agents_at_once_is_refused_where_they_may_miss_each_other(
    matching: MatchingConfig, complaint: str
) -> None:
    assert gauge_of(matching) == "tree"
    with pytest.raises(ConfigError, match=complaint):
        gauge_of(matching, apart=True)
