"""Both ends of an edge see the same scores, on the images of both, and only moments travel."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.methods.agents import Agents, agents_of, irregular, merge
from tests.tiers import tiers

from dimat.errors import StructureError
from dimat.exchange import Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.methods import Dimat, RoundResult
from dimat.methods.gauge import cycle_error
from dimat.methods.ordering import common
from dimat.methods.ordering.pooled import (
    encode_moments,
    measure_edges,
    pooled_moments,
    pooled_scores,
)
from dimat.state import State

PAIRWISE = Dimat("pairwise", "pooled")


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def own(request: pytest.FixtureRequest) -> Agents:
    return agents_of(request.param)


def strangers(own: Agents, n: int) -> list[State]:
    """Models that have little in common: assignments are far from clear."""
    return own.shuffled(own.perturbed(n, by=1.0))


def with_ties(states: list[State], twins: bool) -> list[State]:
    """The first few units of every layer compute nothing, or the same."""
    return [
        {
            k: torch.cat([v[:1] * twins] * 4 + [v[4:]]) if v.dim() and len(v) > 6 else v
            for k, v in s.items()
        }
        for s in states
    ]


@pytest.mark.parametrize("seed", tiers(range(3), slow=[1, 2]))
@pytest.mark.parametrize("ties", [None, "dead", "twins"])
def test_the_two_ends_of_an_edge_find_inverse_permutations(
    own: Agents, seed: int, ties: str | None
) -> None:
    graph, symmetry = irregular(seed), own.analysis.symmetry
    states = own.perturbed(6, by=1.0)
    states = own.shuffled(with_ties(states, ties == "twins") if ties else states)
    merged, _ = merge(PAIRWISE, own.members(states, graph))
    for i, j in graph.edges:
        back = symmetry.compose(merged[i].report.alignments[j], merged[j].report.alignments[i])
        assert back.moved == 0.0


def test_so_they_do_where_scores_are_full_of_ties(
    own: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Solved by each end from its own side, scores of 0 and 1 have many solutions."""
    graph, symmetry = irregular(0), own.analysis.symmetry

    def tied(mine: object, heard: object, other: int, us: int) -> dict[str, NDArray[np.float64]]:
        random = np.random.default_rng(sorted((other, us)))
        drawn = {g.name: random.integers(2, size=(g.size, g.size)) * 1.0 for g in symmetry.groups}
        return drawn if other < us else {name: score.T for name, score in drawn.items()}

    monkeypatch.setattr(common, "pooled_scores", tied)
    merged, _ = merge(PAIRWISE, own.members(strangers(own, 6), graph))
    for i, j in graph.edges:
        back = symmetry.compose(merged[i].report.alignments[j], merged[j].report.alignments[i])
        assert back.moved == 0.0


def test_local_statistics_do_not_agree_there_and_back(own: Agents) -> None:
    """The control: the law above can fail."""
    graph, symmetry = irregular(0), own.analysis.symmetry
    merged, _ = merge(Dimat("pairwise"), own.members(strangers(own, 6), graph))
    edges = {(i, j): p for i, m in enumerate(merged) for j, p in m.report.alignments.items()}
    assert cycle_error(symmetry, graph, edges) > 0.1


def test_pooled_moments_are_those_of_the_images_of_both(own: Agents) -> None:
    a, b = strangers(own, 2)
    mine = measure_edges(own.analysis, a, {1: b}, own.batches(0))[1]
    theirs = measure_edges(own.analysis, b, {0: a}, own.batches(1))[0]
    union = [*own.batches(0), *own.batches(1)]
    expected = measure_edges(own.analysis, b, {0: a}, union)[0]
    at_0 = pooled_moments(mine, encode_moments(theirs), 1, 0)
    at_1 = pooled_moments(theirs, encode_moments(mine), 0, 1)
    for key, both in expected.items():
        assert at_0[key].count == at_1[key].count == both.count
        torch.testing.assert_close(
            at_0[key].scores("correlation"), both.scores("correlation"), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            at_0[key].scores("correlation"), at_1[key].scores("correlation"), rtol=0, atol=0
        )
    first = pooled_scores(mine, encode_moments(theirs), 1, 0)
    second = pooled_scores(theirs, encode_moments(mine), 0, 1)
    for name, score in first.items():
        np.testing.assert_array_equal(score, second[name].T)


def test_no_message_is_large_enough_to_hold_the_images(own: Agents) -> None:
    """What travels for matching does not grow with the number of images."""
    a, b = strangers(own, 2)
    sizes = []
    for batches in (own.batches(0)[:1], own.batches(0) * 5):
        message = encode_moments(measure_edges(own.analysis, a, {1: b}, batches)[1])
        sizes.append({k: tuple(v.shape) for k, v in message.items()})
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda v: v[..., 1:], "moments from agent 0 does not fit: '0/cross' has shape"),
        (lambda v: v * torch.nan, "moments from agent 0: '0/cross' has .* NaN"),
    ],
)
def test_moments_that_do_not_fit_are_refused_by_their_sender(
    own: Agents, spoil: object, complaint: str
) -> None:
    def lying(talk: Talk[RoundResult]) -> Talk[RoundResult]:
        step = next(talk)
        while True:
            send = {
                to: {k: spoil(v) if k == "0/cross" else v for k, v in m.items()}  # type: ignore[operator]
                for to, m in step.send.items()
            }
            inbox = yield Step(send, step.hear)
            try:
                step = talk.send(inbox)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]

    pair: nx.Graph[int] = nx.path_graph(2)
    talks = [PAIRWISE.merge(me) for me in own.members(strangers(own, 2), pair)]
    with pytest.raises(StructureError, match=complaint):
        run_all([lying(talks[0]), talks[1]], [Traffic(), Traffic()])
