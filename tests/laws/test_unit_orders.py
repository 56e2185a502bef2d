"""Mixing in one unit order is the mixing matrix in another basis (docs/theory.md)."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import block_diag
from scipy.sparse.csgraph import connected_components
from tests.analyses import analyze
from tests.laws.graphs import connected_graphs
from tests.laws.operators import as_matrix, edges_of, gap, spectra, stacked
from tests.methods.agents import Agents, agents_of, irregular, merge
from torch import Tensor, nn

from dimat.merging import mix
from dimat.methods import Dimat
from dimat.methods.gauge import GaugeId
from dimat.state import State, consensus_distance
from dimat.topology import metropolis
from dimat.topology.spectral import on_differences, worst_shrinkage


class TwoLayers(Agents):
    """Agents of a perceptron with few enough weights to write its operator down."""

    def batches(self, agent: int) -> list[Tensor]:
        return [torch.randn(60, 2, generator=torch.Generator().manual_seed(agent)).double()]


def two_layers() -> TwoLayers:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    return TwoLayers(model, analyze(model, (torch.zeros(2, 2).double(),)))


def test_mixing_in_one_unit_order_is_the_mixing_matrix_in_another_orthogonal_basis() -> None:
    """Of what a merge found and did: W = Q (Π ⊗ I) Qᵀ, entry by entry, Q of permutations."""
    own, n = two_layers(), 6
    symmetry = own.analysis.symmetry
    random = torch.Generator().manual_seed(3)
    orders = [symmetry.random(random) for _ in range(n)]
    states = [symmetry.apply(q, s) for q, s in zip(orders, own.perturbed(n, by=0.01), strict=True)]
    like = states[0]
    them = own.members(states, irregular(1))
    merged, _ = merge(Dimat("pairwise"), them)
    edges = edges_of(merged)

    def mixed(given: list[State]) -> list[State]:
        aligned = {(i, j): symmetry.apply(p, given[j]) for (i, j), p in edges.items()}
        return [
            mix([given[i], *(aligned[i, j] for j in me.neighbors)], me.weights)
            for i, me in enumerate(them)
        ]

    operator = as_matrix(mixed, like, n)
    np.testing.assert_allclose(operator @ stacked(states), stacked([m.state for m in merged]))
    blocks = [as_matrix(lambda x, q=q: [symmetry.apply(q, x[0])], like, 1) for q in orders]
    basis, size = block_diag(*blocks), len(blocks[0])
    np.testing.assert_array_equal(basis @ basis.T, np.eye(n * size))
    pi = them[0].topology.pi
    np.testing.assert_allclose(operator, basis @ np.kron(pi, np.eye(size)) @ basis.T, atol=1e-12)
    assert not np.allclose(operator, np.kron(pi, np.eye(size)))
    mean = np.kron(np.ones((1, n)) / n, np.eye(size)) @ basis.T  # of all agents, in one order
    np.testing.assert_allclose(mean @ operator, mean, atol=1e-12)


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


def apart_along(own: Agents, direction: np.ndarray, seed: int = 5) -> list[State]:
    """One network, each agent some way along one random line from it."""
    random = torch.Generator().manual_seed(seed)
    base = own.model.state_dict()
    line = {
        k: 1e-3 * torch.randn(v.shape, generator=random, dtype=v.dtype) for k, v in base.items()
    }
    return [{k: v + float(x) * line[k] for k, v in base.items()} for x in direction]


def shrunk(own: Agents, method: Dimat, states: list[State], graph: nx.Graph[int]) -> float:
    """The factor by which a merge shrinks disagreement, measured in one unit order.

    Agents stand in orders of their own, but for ``spread``, which mixes those alone who share one.
    """
    symmetry, n = own.analysis.symmetry, len(states)
    random = torch.Generator().manual_seed(3)
    orders = [symmetry.random(random) for _ in range(n)]
    shared = dict.fromkeys(range(n), GaugeId(0, 1)) if method.gauge == "spread" else {}
    if shared:
        orders = [orders[0]] * n
    moved = [symmetry.apply(q, s) for q, s in zip(orders, states, strict=True)]
    merged, _ = merge(method, own.members(moved, graph, 2, shared))
    after = [m.state for m in merged]
    if method.gauge == "pairwise":  # each stays in its own order
        after = [symmetry.apply(symmetry.inverse(q), s) for q, s in zip(orders, after, strict=True)]
    return consensus_distance(after, own.parameters) / consensus_distance(states, own.parameters)


@pytest.mark.parametrize("gauge", ["tree", "pairwise", "spread"])
def test_in_one_unit_order_disagreement_contracts_as_the_mixing_matrix_says_and_no_less(
    own: Agents, gauge: str
) -> None:
    """The second singular value, one minus the gap, is attained; in no direction is it more."""
    graph, method = irregular(2), Dimat(gauge)  # type: ignore[arg-type]
    pi = metropolis(graph, np.ones(6))
    vectors, values, _ = np.linalg.svd(pi)
    slowest = worst_shrinkage(on_differences(pi)[None])
    assert slowest == pytest.approx(values[1])
    assert slowest == pytest.approx(1 - own.members([{}] * 6, graph)[0].topology.spectral_gap)
    for k in range(1, 6):
        found = shrunk(own, method, apart_along(own, vectors[:, k]), graph)
        assert found == pytest.approx(values[k], rel=1e-6)
    assert shrunk(own, method, own.perturbed(6, by=0.01), graph) <= slowest


def both_ways(graph: nx.Graph[int]) -> list[tuple[int, int]]:
    return [*graph.edges, *((j, i) for i, j in graph.edges)]


@settings(max_examples=30)
@given(connected_graphs(), st.integers(0, 2**31 - 1))
def test_no_permutations_widen_the_spectral_gap(graph: nx.Graph[int], seed: int) -> None:
    """Π's spectrum is in that of [π_ij P_ij]: what all units share is mixed by Π, whatever P is."""
    analysis, random = two_layers().analysis, torch.Generator().manual_seed(seed)
    edges = {edge: analysis.symmetry.random(random) for edge in both_ways(graph)}
    pi, operator, size = spectra(analysis, graph, edges)
    shared = np.kron(np.eye(len(pi)), np.ones((size, 1)))
    for own, of_pi in ((operator, pi), (operator.T, pi.T)):
        np.testing.assert_allclose(own @ shared, shared @ of_pi, atol=1e-12)
    assert gap(operator) <= gap(pi) + 1e-6
    singular = np.linalg.svd(operator, compute_uv=False)
    for value in np.linalg.svd(pi, compute_uv=False):
        assert np.abs(singular - value).min() < 1e-9
    assert singular.max() <= 1 + 1e-9


@settings(max_examples=30)
@given(connected_graphs(), st.integers(0, 2**31 - 1))
def test_as_many_means_are_kept_as_there_are_orbits_of_units(
    graph: nx.Graph[int], seed: int
) -> None:
    """An orbit: units of all agents that permutations connect."""
    analysis, random = two_layers().analysis, torch.Generator().manual_seed(seed)
    symmetry, still = analysis.symmetry, analysis.symmetry.identity()
    moved = {edge: symmetry.random(random) for edge in both_ways(graph)[::3]}
    edges = {edge: moved.get(edge, still) for edge in both_ways(graph)}
    _, operator, _ = spectra(analysis, graph, edges)
    orbits, which = connected_components(operator > 0)
    assert int((np.abs(np.linalg.eigvals(operator)) > 1 - 1e-7).sum()) == orbits
    for k in range(orbits):  # the mean over an orbit is kept
        np.testing.assert_allclose((which == k) @ operator, which == k, atol=1e-12)


@settings(max_examples=30)
@given(connected_graphs(), st.integers(0, 2**31 - 1))
def test_one_unit_order_leaves_the_spectral_gap_as_it_is(graph: nx.Graph[int], seed: int) -> None:
    """Every eigenvalue of Π, as many times as there are units, and no other."""
    analysis, random = two_layers().analysis, torch.Generator().manual_seed(seed)
    own = analysis.symmetry
    orders = [own.random(random) for _ in graph]
    edges = {(i, j): own.compose(orders[i], own.inverse(orders[j])) for i, j in both_ways(graph)}
    pi, operator, size = spectra(analysis, graph, edges)
    expected = np.repeat(np.linalg.eigvalsh(pi), size)
    np.testing.assert_allclose(np.linalg.eigvalsh(operator), expected, atol=1e-9)
    assert gap(operator) == pytest.approx(gap(pi))
