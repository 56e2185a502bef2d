"""Units that are matched where that beats leaving them as they are, and stay where it does not."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import pytest
from tests.methods.agents import Agents, agents_of, merge

from dimat.methods import Dimat, RoundContext
from dimat.methods.ordering.common import beats_null
from dimat.state import State

HEAD = ("head.weight", "head.bias")


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def own(request: pytest.FixtureRequest) -> Agents:
    return agents_of(request.param)


def related(own: Agents) -> list[State]:
    """Three networks that compute and read the same, each in an order of its own."""
    return own.shuffled(own.perturbed(3, by=0.01))


def opposed(own: Agents) -> list[State]:
    """The same units in orders of their own, read by every network as the opposite."""
    states = related(own)
    return [{**s, **{k: (-1) ** i * s[k] for k in HEAD}} for i, s in enumerate(states)]


@pytest.mark.parametrize("gauge", ["spread", "tree"])
def test_units_that_others_read_alike_are_matched_and_others_stay(own: Agents, gauge: str) -> None:
    graph, still = nx.path_graph(3), own.analysis.symmetry.identity()
    for states, moves in ((related(own), True), (opposed(own), False)):
        for margin, aligned in ((0.5, moves), (None, True)):
            method = replace(Dimat(gauge), null_margin=margin)  # type: ignore[arg-type]
            merged, _ = merge(method, own.members(states, graph))
            assert len({m.gauge for m in merged}) < 3  # in one order they are either way
            moved = [
                any((m.permutation.slots[k] != still.slots[k]).any() for k in still.slots)
                for m in merged
                if m.permutation is not None
            ]
            assert any(moved) is aligned


def test_what_is_read_as_it_is_after_a_match_alone_counts(own: Agents) -> None:
    """The bound is strict: the margin is the share by which the distance goes down."""
    first, second, _ = related(own)
    me: RoundContext = own.members([first, second], nx.path_graph(2))[0]
    back = own.analysis.symmetry.identity()
    assert not beats_null(me, {1: second}, {0: back}, 0.0)  # as it was: no better than none
    assert beats_null(me, {1: second}, {0: back}, None)
