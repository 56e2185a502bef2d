"""Gauges that meet: partitions that heal, late joiners, graphs that change."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from tests.laws.graphs import PAW
from tests.methods.agents import Agents, agents_of, irregular, merge
from tests.tiers import tiers
from torch.func import functional_call

from dimat.methods import Dimat, RoundResult
from dimat.methods.gauge import GaugeId, cycle_error
from dimat.state import State, num_bytes

METHODS = {"local": Dimat("tree"), "pooled": Dimat("tree", "pooled")}


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def own(request: pytest.FixtureRequest) -> Agents:
    return agents_of(request.param)


@pytest.fixture(params=list(METHODS))
def method(request: pytest.FixtureRequest) -> Dimat:
    return METHODS[request.param]


def halves() -> nx.Graph[int]:
    """A paw and a triangle that do not reach each other."""
    return nx.disjoint_union(PAW, nx.complete_graph(3))


def healed() -> nx.Graph[int]:
    graph = halves()
    graph.add_edges_from([(3, 4), (1, 6)])
    return graph


def ids(merged: list[RoundResult]) -> dict[int, GaugeId | None]:
    return {i: m.gauge for i, m in enumerate(merged)}


def states(merged: list[RoundResult]) -> list[State]:
    return [m.state for m in merged]


def same_function(own: Agents, found: list[State], expected: State) -> None:
    x = torch.randn(16, 2, 6, 6, dtype=torch.float64)
    for state in found:
        torch.testing.assert_close(
            functional_call(own.model, state, x),
            functional_call(own.model, expected, x),
            rtol=1e-8,
            atol=1e-8,
        )


def mean(them: list[State]) -> State:
    return {
        k: torch.stack([s[k] for s in them]).mean(0)
        for k, v in them[0].items()
        if v.is_floating_point()
    }


def test_every_part_of_a_broken_graph_has_a_gauge_of_its_own(own: Agents, method: Dimat) -> None:
    first, _ = merge(method, own.members(own.shuffled([own.perturbed(1)[0]] * 7), halves()))
    assert set(list(ids(first).values())[:4]) == {GaugeId(2, 1)}
    assert set(list(ids(first).values())[4:]) == {GaugeId(4, 1)}


def test_when_a_partition_heals_the_higher_gauge_moves_by_one_permutation(
    own: Agents, method: Dimat
) -> None:
    base = own.perturbed(1)[0]
    first, _ = merge(method, own.members(own.shuffled([base] * 7), halves()))
    second, _ = merge(method, own.members(states(first), healed(), 2, ids(first)))
    assert set(ids(second).values()) == {GaugeId(2, 1)}
    symmetry = own.analysis.symmetry
    moves = [m.permutation for m in second]
    for i, move in enumerate(moves):
        assert move is not None
        reference = moves[0] if i < 4 else moves[4]
        assert reference is not None
        assert symmetry.compose(symmetry.inverse(reference), move).moved == 0.0
    assert moves[0] is not None
    assert moves[0].moved == 0.0
    same_function(own, states(second), base)
    torch.testing.assert_close(second[6].state, second[0].state)


def test_from_then_on_nothing_is_matched_and_only_ids_travel(own: Agents, method: Dimat) -> None:
    first, _ = merge(method, own.members(own.shuffled(own.perturbed(7)), halves()))
    second, _ = merge(method, own.members(states(first), healed(), 2, ids(first)))
    them = own.members(states(second), healed(), 3, ids(second))
    third, traffic = merge(method, them)
    assert all(m.permutation is None and m.report.match_s == 0.0 for m in third)
    for i, count in enumerate(traffic):
        degree = len(them[i].neighbors)
        assert count.sent_bytes == degree * (num_bytes(them[i].state) + 7 * 12)


def test_different_models_are_never_mixed_in_different_orders(own: Agents, method: Dimat) -> None:
    """The mean of all agents, in the order that they come into, is kept through every event."""
    shuffled = own.shuffled(own.perturbed(7))
    first, _ = merge(method, own.members(shuffled, halves()))
    second, _ = merge(method, own.members(states(first), healed(), 2, ids(first)))
    symmetry = own.analysis.symmetry
    for before, after in ((shuffled, first), (states(first), second)):
        for part in (range(4), range(4, 7)) if after is first else (range(7),):
            moved = [symmetry.apply(after[i].permutation, before[i]) for i in part]  # type: ignore[arg-type]
            torch.testing.assert_close(mean([after[i].state for i in part]), mean(moved))


@pytest.mark.parametrize("joiner", range(4))
def test_a_late_joiner_takes_over_the_order_of_the_others(
    own: Agents, method: Dimat, joiner: int
) -> None:
    """Also one that was the root once, and comes back with a fresh state."""
    base = own.perturbed(1)[0]
    them = own.shuffled([base] * 4)
    first, _ = merge(method, own.members(them, PAW))
    late = [*states(first)]
    late[joiner] = own.shuffled([base], seed=9)[0]
    known = {**ids(first), joiner: None}
    second, _ = merge(method, own.members(late, PAW, 2, known))
    assert set(ids(second).values()) == {GaugeId(2, 1)}
    for i, m in enumerate(second):
        assert m.permutation is not None
        assert (m.permutation.moved > 0) == (i == joiner)
    same_function(own, states(second), base)
    torch.testing.assert_close(second[joiner].state, second[(joiner + 1) % 4].state)


def test_an_agent_that_meets_nobody_keeps_its_own_order(own: Agents, method: Dimat) -> None:
    graph: nx.Graph[int] = nx.empty_graph(3)
    graph.add_edge(0, 1)
    them = own.shuffled([own.perturbed(1)[0]] * 3)
    merged, traffic = merge(method, own.members(them, graph))
    assert merged[2].gauge == GaugeId(2)
    assert traffic[2].sent_bytes == 0
    torch.testing.assert_close(merged[2].state, them[2], rtol=0, atol=0)
    graph.add_edge(1, 2)
    again, _ = merge(method, own.members(states(merged), graph, 2, ids(merged)))
    assert len(set(ids(again).values())) == 1
    torch.testing.assert_close(again[2].state, again[0].state)


@pytest.mark.parametrize("seed", tiers(range(3), slow=[1, 2]))
def test_on_a_graph_that_changes_every_round_all_come_into_one_order_as_they_meet(
    own: Agents, method: Dimat, seed: int
) -> None:
    """Half of the edges at a time: parts form, meet and part again; copies stay copies."""
    base = own.perturbed(1)[0]
    them, known = own.shuffled([base] * 6), {}
    whole = irregular(seed)
    for number in range(1, 7):
        graph: nx.Graph[int] = nx.empty_graph(6)
        graph.add_edges_from([e for k, e in enumerate(whole.edges) if (k + number) % 2])
        merged, _ = merge(method, own.members(them, graph, number, known))
        them, known = states(merged), ids(merged)
        for i, j in graph.edges:
            assert known[i] == known[j]
            torch.testing.assert_close(them[i], them[j])
    same_function(own, them, base)
    merged, _ = merge(method, own.members(them, whole, 7, known))
    assert len(set(ids(merged).values())) == 1


@pytest.mark.parametrize("seed", tiers(range(3), slow=[1, 2]))
def test_permutations_of_the_tree_gauge_agree_around_every_cycle(
    own: Agents, method: Dimat, seed: int
) -> None:
    """Of models that have little in common, where pairwise matching disagrees with itself."""
    graph, symmetry = irregular(seed), own.analysis.symmetry
    merged, _ = merge(method, own.members(own.shuffled(own.perturbed(6, by=1.0)), graph))
    edges = {
        (i, j): symmetry.compose(symmetry.inverse(m.permutation), p)  # type: ignore[arg-type]
        for i, m in enumerate(merged)
        for j, p in m.report.alignments.items()
    }
    assert cycle_error(symmetry, graph, edges) == 0.0


def test_forgetting_matches_everyone_again_into_a_gauge_of_a_new_generation(own: Agents) -> None:
    method = Dimat("tree", every=3)
    them, known = own.shuffled(own.perturbed(4)), {}
    for number in range(1, 8):
        merged, _ = merge(method, own.members(them, PAW, number, known))
        them, known = states(merged), ids(merged)
        assert set(known.values()) == {GaugeId(2, 1 + 3 * ((number - 1) // 3))}
        assert all((m.permutation is not None) == (number % 3 == 1) for m in merged)


def test_memories_move_as_the_units_of_their_agents_do(own: Agents, method: Dimat) -> None:
    """Two paths: the memory is a copy of the state, so it has to merge to what the state does."""
    mixing = Dimat("tree", method.statistics, mix_memory=True)
    them = own.shuffled(own.perturbed(4))
    names = [name for name, _ in own.model.named_parameters()]
    memories = [{"exp_avg": {k: s[k] for k in names}} for s in them]
    merged, _ = merge(mixing, own.members(them, PAW, memories=memories))
    for m in merged:
        assert m.memory is not None
        torch.testing.assert_close(m.memory["exp_avg"], {k: m.state[k] for k in names})
