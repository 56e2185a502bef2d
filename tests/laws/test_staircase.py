"""Three agents whose pairwise matches do not close around the cycle (docs/theory.md)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import networkx as nx
import numpy as np
import pytest
import torch
from tests.analyses import analyze
from tests.laws.operators import edges_of, gap, spectra
from tests.methods.agents import Agents, merge
from torch import Tensor, nn

from dimat.methods import Dimat
from dimat.methods.gauge import moved_around
from dimat.state import State, consensus_distance
from dimat.symmetry import Permutation, Symmetry
from dimat.topology import build_topology

TURN = (1 + 2 * math.cos(2 * math.pi / 9)) / 3  # .844: the mean of a direction and those ±40° off


class Staircase(Agents):
    """Three agents, three units each at 120° to each other; each agent 40° further than the last.

    The nearest unit of the next agent is always 40° on, so after three agents one has climbed to
    the next unit.
    """

    def batches(self, agent: int) -> list[Tensor]:
        angles = 2 * math.pi * torch.arange(720, dtype=torch.float64) / 720
        return [torch.stack([angles.cos(), angles.sin()], 1)]

    @staticmethod
    def states() -> list[State]:
        angles = (2 * math.pi / 9) * torch.arange(9, dtype=torch.float64).reshape(3, 3).T
        weights = torch.stack([angles.cos(), angles.sin()], -1)
        return [{"0.weight": w, "2.weight": torch.ones(1, 3, dtype=torch.float64)} for w in weights]


@pytest.fixture(scope="module")
def stairs() -> Staircase:
    layers = nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False)
    model = nn.Sequential(*layers).double().eval()
    return Staircase(model, analyze(model, (torch.zeros(2, 2).double(),)))


TRIANGLE: nx.Graph[int] = nx.cycle_graph(3)


def in_every_order(symmetry: Symmetry) -> list[Permutation]:
    name = symmetry.groups[0].name
    return [
        Permutation({name: np.array([order])}, symmetry.digest)
        for order in itertools.permutations(range(3))
    ]


def mean(states: Sequence[State]) -> Tensor:
    return torch.stack([s["0.weight"] for s in states]).mean(0)


@pytest.mark.parametrize("statistics", ["local", "pooled"])
def test_pairwise_matches_that_agree_along_every_edge_need_not_close_around_a_cycle(
    stairs: Staircase, statistics: str
) -> None:
    method = Dimat("pairwise", statistics)  # type: ignore[arg-type]
    merged, _ = merge(method, stairs.members(stairs.states(), TRIANGLE))
    edges, symmetry = edges_of(merged), stairs.analysis.symmetry
    assert [moved_around(symmetry, [i, j], edges) for i, j in TRIANGLE.edges] == [0.0] * 3
    assert moved_around(symmetry, [0, 1, 2], edges) == 1.0


def test_then_no_unit_order_has_its_mean_kept(stairs: Staircase) -> None:
    """Tried: all orders of all three agents. In that of the tree it is kept."""
    before, symmetry = stairs.states(), stairs.analysis.symmetry
    merged, _ = merge(Dimat("pairwise"), stairs.members(before, TRIANGLE))
    after = [m.state for m in merged]
    for orders in itertools.product(in_every_order(symmetry), repeat=3):
        first, then = (
            mean([symmetry.apply(q, s) for q, s in zip(orders, own, strict=True)])
            for own in (before, after)
        )
        assert float((first - then).norm()) > 0.15 * float(first.norm())
    in_order, _ = merge(Dimat("tree"), stairs.members(before, TRIANGLE))
    moved = [symmetry.apply(m.permutation, s) for m, s in zip(in_order, before, strict=True)]  # type: ignore[arg-type]
    torch.testing.assert_close(mean([m.state for m in in_order]), mean(moved))


def test_then_disagreement_shrinks_as_on_a_ring_of_all_units_and_networks_fade(
    stairs: Staircase,
) -> None:
    """Π is that of a full graph and would end all disagreement at once; here it is .844 a merge."""
    states, symmetry = stairs.states(), stairs.analysis.symmetry
    assert build_topology("ring", 3).contraction == pytest.approx(0, abs=1e-9)
    for number in range(1, 6):
        merged, _ = merge(Dimat("pairwise"), stairs.members(states, TRIANGLE, number))
        found = [m.state for m in merged]
        for own, was in zip(found, states, strict=True):
            torch.testing.assert_close(own["0.weight"], TURN * was["0.weight"])
        states = found
    in_order, _ = merge(Dimat("tree"), stairs.members(stairs.states(), TRIANGLE))
    assert consensus_distance([m.state for m in in_order], ["0.weight"]) < 1e-12
    _, operator, _ = spectra(stairs.analysis, TRIANGLE, edges_of(merged))
    ring = np.linalg.eigvalsh(build_topology("ring", 9).pi)
    np.testing.assert_allclose(np.linalg.eigvalsh(operator), ring, atol=1e-12)
    assert 1 - gap(operator) == pytest.approx(TURN)
    assert symmetry.groups[0].size == 3
    assert int((np.abs(ring - 1) < 1e-9).sum()) == 1  # one of three means is kept
