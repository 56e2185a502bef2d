"""How well units match after a merge's permutations, as reports have it."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from tests.methods.agents import agents_of, merge

from dimat.methods import Dimat
from dimat.methods.ordering.common import with_quality


def test_similarity_is_that_of_units_in_one_place_in_the_mean_of_neighbors() -> None:
    own = agents_of("mlp")
    symmetry, random = own.analysis.symmetry, torch.Generator().manual_seed(0)
    (me, *_) = own.members(own.perturbed(4), nx.star_graph(3))
    moves = {0: symmetry.random(random), 1: symmetry.random(random), 2: symmetry.random(random)}
    numbers = np.random.default_rng(0)
    scores = {
        j: {g.name: numbers.random((g.size, g.size)) for g in symmetry.groups}
        for j in (1, 2, 3)  # 3 stays where it is
    }
    found = with_quality(me, scores, moves, None)
    assert found.similarity.keys() == found.margin.keys() == set(symmetry.names)
    for group in symmetry.groups:
        still = np.arange(group.size)
        places = [moves[j].slots[group.name][0] if j in moves else still for j in range(4)]
        each = [scores[j][group.name][places[j], places[0]].mean() for j in (1, 2, 3)]
        assert found.similarity[group.name] == pytest.approx(np.mean(each))


@pytest.mark.parametrize("gauge", ["tree", "spread", "pairwise"])
def test_permuted_copies_are_fully_similar_and_strangers_are_not(gauge: str) -> None:
    own = agents_of("mlp")
    graph: nx.Graph[int] = nx.path_graph(3)
    copies = own.shuffled([own.perturbed(1)[0]] * 3)
    strangers = own.shuffled(own.perturbed(3, by=1.0))
    for states, least, most in ((copies, 1 - 1e-6, 1 + 1e-6), (strangers, 0.1, 0.99)):
        merged, _ = merge(Dimat(gauge), own.members(states, graph))  # type: ignore[arg-type]
        told = [result.report.similarity for result in merged if result.report.similarity]
        assert told
        for report in told:
            assert all(least <= value <= most for value in report.values())
