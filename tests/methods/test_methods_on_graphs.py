"""The conformance suite again, on random irregular graphs and on the smallest, by registry."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from tests.analyses import analyze
from tests.methods.making import made
from tests.tiers import tiers
from torch.func import functional_call

from dimat.errors import StructureError
from dimat.exchange import Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.methods import METHODS, Dimat, Method, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.methods.ordering.pooled import encode_moments, measure_edges
from dimat.methods.ordering.spread import seniority
from dimat.methods.rounds.diloco import DiLoCo
from dimat.methods.rounds.fedavg import FedAvg
from dimat.state import num_bytes
from dimat.testing.agents import SHAPE, SmallNetwork, irregular, merge, small_network
from dimat.testing.methods import MERGES
from dimat.topology import Topology

SETTINGS = {
    "tree": Dimat("tree", sweeps=2),
    "pairwise": Dimat("pairwise"),
    "spread": Dimat("spread"),
    "tree-pooled": Dimat("tree", "pooled", sweeps=2),
    "pairwise-pooled": Dimat("pairwise", "pooled"),
}
NETWORKS = ("mlp", "cnn")
EVERY = [
    (network, method)
    for network in NETWORKS
    for method in [*(name for name in METHODS if name != "dimat"), *SETTINGS]
]
# Only what matches units can tell a convolution from a perceptron.
SLOW = [(network, method) for network, method in EVERY if network == "cnn"]
SLOW = [own for own in SLOW if own[1] not in ("tree", "spread", "wm")]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> SmallNetwork:
    return small_network(request.param, analyze)


@pytest.fixture(params=tiers(EVERY, SLOW))
def both(request: pytest.FixtureRequest) -> tuple[Method, SmallNetwork]:
    """A method, and the network that it merges."""
    network, name = request.param
    method = SETTINGS[name] if name in SETTINGS else made(name, sweeps=2)
    return method, small_network(network, analyze)


@pytest.mark.parametrize("seed", tiers(range(3), slow=[1, 2]))
def test_copies_of_one_state_merge_to_it_on_any_graph(
    both: tuple[Method, SmallNetwork], seed: int
) -> None:
    method, network = both
    state = dict(network.model.state_dict())
    before = copy.deepcopy(state)
    merged, _ = merge(method, network.members([state] * 6, irregular(seed)))
    for result in merged:
        torch.testing.assert_close(result.state, before)
    torch.testing.assert_close(state, before, rtol=0, atol=0)


@pytest.mark.parametrize("own", list(SETTINGS))
@pytest.mark.parametrize("seed", tiers(range(4), slow=[2, 3]))
def test_permuted_copies_merge_to_one_function_on_any_graph(
    network: SmallNetwork, own: str, seed: int
) -> None:
    states, graph = network.permuted(6), irregular(seed)
    merged, _ = merge(SETTINGS[own], network.members(states, graph))
    x = torch.randn(32, *SHAPE, dtype=torch.float64)
    for i, result in enumerate(merged):
        torch.testing.assert_close(
            functional_call(network.model, result.state, x), network.model(x), rtol=1e-9, atol=1e-9
        )
        assert (result.disagreement or 0.0) == pytest.approx(0, abs=1e-9)
        near = [GaugeId(j, 1) for j in (i, *graph.neighbors(i))]
        leader = min(near, key=seniority).root if own == "spread" else i
        order = states[min(nx.center(graph.graph)) if SETTINGS[own].gauge == "tree" else leader]
        torch.testing.assert_close(result.state, order)


def test_averaging_is_the_dense_product_and_says_how_far_the_neighbors_were(
    network: SmallNetwork,
) -> None:
    states, graph = network.perturbed(6), irregular(5)
    them = network.members(states, graph)
    merged, _ = merge(METHODS["wa"](), them)
    for key, value in states[0].items():
        found = [m.state[key] for m in merged]
        if value.is_floating_point():
            dense = torch.tensordot(
                torch.from_numpy(graph.pi), torch.stack([s[key] for s in states]), 1
            )
            torch.testing.assert_close(torch.stack(found), dense)
        else:
            torch.testing.assert_close(found, [s[key] for s in states])  # each keeps its own
    for i, result in enumerate(merged):
        squares = sum(
            graph.pi[i, j] * float((states[i][k] - states[j][k]).square().sum())
            for j in graph.neighbors(i)
            for k in them[i].parameters
        )
        assert result.disagreement == pytest.approx(math.sqrt(squares))


def test_pairwise_merging_is_the_average_of_what_was_aligned_to_each_agent(
    network: SmallNetwork,
) -> None:
    """Two paths: permuted neighbors merge to what the neighbors in order merge to."""
    graph, method = irregular(2), Dimat("pairwise")
    model, analysis = network.model, network.analysis
    base = dict(model.state_dict())
    random = torch.Generator().manual_seed(7)
    states = [
        {k: v + 0.01 * torch.rand(v.shape, generator=random) if v.is_floating_point() else v
         for k, v in base.items()}
        for _ in range(6)
    ]  # fmt: skip
    symmetry = analysis.symmetry
    moves = [symmetry.random(random) for _ in states]
    in_order, _ = merge(METHODS["wa"](), network.members(states, graph))
    shuffled = [symmetry.apply(p, s) for p, s in zip(moves, states, strict=True)]
    merged, _ = merge(method, network.members(shuffled, graph))
    for p, expected, result in zip(moves, in_order, merged, strict=True):
        torch.testing.assert_close(result.state, symmetry.apply(p, expected.state))
        assert result.disagreement == pytest.approx(expected.disagreement)


def test_bytes_are_a_state_per_edge_and_direction_and_the_permutations_of_the_tree(
    both: tuple[Method, SmallNetwork],
) -> None:
    method, network = both
    if method.in_pairs:
        return  # who meets is drawn: test_steps.py, test_noloco.py
    states, graph = network.perturbed(6), irregular(4)
    them = network.members(states, graph)
    _, traffic = merge(method, them)
    permutation = network.analysis.symmetry.identity().num_bytes
    if isinstance(method, FedAvg | DiLoCo):  # the server is agent 0, the graph is not used
        size, others = num_bytes(states[0]), graph.num_agents - 1
        for i, count in enumerate(traffic):
            up = size + 8  # a state, and how many images are behind it
            sent, received = (up, size) if i else (others * size, others * up)
            assert count == Traffic(sent, received)
        return
    each = num_bytes(states[0]) if method.exchanges == "rounds" else 0
    own = method if isinstance(method, Dimat) else Dimat("pairwise")
    if own.gauge == "tree":
        each += (1 + 2) * permutation  # down the tree, and once a sweep
        each += 12 * graph.num_agents  # everybody's gauge
    if own.gauge == "spread":
        each += 24  # whose order it is in
    if own.statistics == "pooled":
        moments = measure_edges(network.analysis, states[0], {1: states[1]}, them[0].batches())
        each += num_bytes(encode_moments(moments[1]))
    for i, count in enumerate(traffic):
        assert count == Traffic(*[each * len(graph.neighbors(i))] * 2)


@pytest.mark.parametrize("law", MERGES, ids=lambda law: law.__name__)
def test_every_method_keeps_the_laws(
    law: Callable[[Method, SmallNetwork], None], both: tuple[Method, SmallNetwork]
) -> None:
    law(*both)


def test_a_permutation_that_is_not_one_to_one_stops_the_round(network: SmallNetwork) -> None:
    """Through the whole talk: agent 0 lies about the order of its units."""
    graph = Topology("pair", nx.path_graph(2), np.full((2, 2), 0.5))
    name = network.analysis.symmetry.names[0]

    def lying(talk: Generator[Step, Any, RoundResult]) -> Talk[RoundResult]:
        step = next(talk)
        while True:
            send = {
                to: {k: torch.zeros_like(v) if k == name else v for k, v in message.items()}
                for to, message in step.send.items()
            }
            inbox = yield Step(send, step.hear)
            step = talk.send(inbox)

    method = Dimat("tree", sweeps=1)
    honest = [method.merge(me) for me in network.members(network.permuted(2), graph)]
    with pytest.raises(StructureError, match=f"group '{name}' is not one to one"):
        run_all([lying(honest[0]), honest[1]], [Traffic(), Traffic()])
