"""Ids and permutations as messages; the error around cycles."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.analyses import analyze
from tests.laws.graphs import connected_graphs
from torch import Tensor, nn

from dimat.errors import StructureError
from dimat.methods.gauge import GaugeId, cycle_error, decode_ids, encode_ids, match_to, transposed
from dimat.state import num_bytes
from dimat.symmetry import Analysis, Symmetry


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(net(), (torch.zeros(2, 3),))


@pytest.fixture(scope="module")
def symmetry(analysis: Analysis) -> Symmetry:
    return analysis.symmetry


def test_ids_survive_the_message_at_12_bytes_an_agent() -> None:
    ids = {3: GaugeId(3), 0: GaugeId(7, 12), 5: GaugeId(0, 1)}
    message = encode_ids(ids)
    assert num_bytes(message) == 36
    assert decode_ids(message, range(6), "ids") == ids
    assert encode_ids({}) == {}
    assert decode_ids({}, range(6), "ids") == {}


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"gauge": torch.zeros(1, 3, dtype=torch.int32)}, "do not fit: expected rows of"),
        ({"gauges": torch.zeros(3, dtype=torch.int32)}, "do not fit: expected rows of"),
        ({"gauges": torch.zeros(1, 2, dtype=torch.int32)}, "do not fit: expected rows of"),
        ({"gauges": torch.zeros(1, 3)}, "do not fit: expected rows of"),
        ({"gauges": torch.tensor([[9, 0, 0]])}, "agent 9 cannot be in"),
        ({"gauges": torch.tensor([[1, -1, 0]])}, "agent 1 cannot be in"),
        ({"gauges": torch.tensor([[1, 0, -2]])}, "agent 1 cannot be in"),
    ],
)
def test_ids_that_do_not_fit_are_refused_by_their_sender(
    message: dict[str, Tensor], complaint: str
) -> None:
    with pytest.raises(StructureError, match=f"gauge ids from agent 4 .*{complaint}"):
        decode_ids(message, range(6), "gauge ids from agent 4")


def test_the_lower_order_ranks_first_and_one_that_nobody_shares_last() -> None:
    ids = [GaugeId(0), GaugeId(2, 9), GaugeId(1, 5), GaugeId(2, 3), GaugeId(1)]
    assert sorted(ids, key=lambda own: own.rank) == [
        GaugeId(1, 5), GaugeId(2, 3), GaugeId(2, 9), GaugeId(0), GaugeId(1),
    ]  # fmt: skip


@given(connected_graphs())
@settings(max_examples=20)
def test_permutations_that_come_from_one_order_have_no_error_around_any_cycle(
    symmetry: Symmetry, graph: nx.Graph[int]
) -> None:
    random = torch.Generator().manual_seed(len(graph))
    own = [symmetry.random(random) for _ in graph]
    pairs = [*graph.edges, *((j, i) for i, j in graph.edges)]
    edges = {(i, j): symmetry.compose(symmetry.inverse(own[i]), own[j]) for i, j in pairs}
    assert cycle_error(symmetry, graph, edges) == 0.0
    i, j = pairs[0]
    spoilt = {**edges, (i, j): symmetry.compose(symmetry.random(random), edges[i, j])}
    assert cycle_error(symmetry, graph, spoilt) > 0.0


@pytest.mark.parametrize("turned", [True, False])
def test_two_ends_that_solve_from_one_side_find_inverse_permutations_whatever_ties(
    analysis: Analysis, turned: bool
) -> None:
    """Scores of 0 and 1 are full of ties; solved each from its own side, they disagree."""
    random, symmetry = np.random.default_rng(0), analysis.symmetry
    states = net().state_dict(), net().state_dict()
    agree = []
    for _ in range(40):
        scores = {g.name: random.integers(2, size=(g.size, g.size)) * 1.0 for g in symmetry.groups}
        there = match_to(analysis, scores, *states)
        back = match_to(analysis, transposed(scores), *states[::-1], turned=turned)
        agree.append(symmetry.compose(there, back).moved == 0.0)
    assert all(agree) == turned


def test_an_agent_alone_has_no_cycles(symmetry: Symmetry) -> None:
    assert cycle_error(symmetry, nx.empty_graph(1), {}) == 0.0
