"""The conformance suite again, on random irregular graphs and on the smallest, by registry."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Sequence
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from tests.analyses import analyze
from tests.tiers import tiers
from torch import Tensor, nn
from torch.func import functional_call

from dimat.errors import StructureError
from dimat.exchange import Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.merging import recalibrate
from dimat.methods import METHODS, Method, RoundContext, RoundResult, Settings
from dimat.methods.gauge import GaugeId
from dimat.methods.ordering.pooled import encode_moments, measure_edges
from dimat.methods.ordering.spread import age
from dimat.methods.rounds.diloco import DiLoCo
from dimat.methods.rounds.fedavg import FedAvg
from dimat.methods.rounds.final_merge import FinalMerge
from dimat.models import build_model
from dimat.state import State, num_bytes
from dimat.symmetry import Analysis
from dimat.topology import Topology, metropolis

SETTINGS = {
    "tree": Settings(sweeps=2),
    "pairwise": Settings("pairwise"),
    "spread": Settings("spread"),
    "tree-pooled": Settings(statistics="pooled", sweeps=2),
    "pairwise-pooled": Settings("pairwise", "pooled"),
}
CASES = [
    (name, own) for name in METHODS for own in (SETTINGS if name == "dimat" else list(SETTINGS)[:1])
]
SHAPE = (2, 6, 6)
Network = tuple[nn.Module, Analysis]


def topology(seed: int, n: int = 6) -> Topology:
    """A random tree with two further edges: irregular, whatever the seed."""
    random = np.random.default_rng(seed)
    graph: nx.Graph[int] = nx.empty_graph(n)
    graph.add_edges_from((i, int(random.integers(i))) for i in range(1, n))
    missing = sorted(nx.non_edges(graph))
    picked = random.choice(len(missing), min(2, len(missing)), replace=False)
    graph.add_edges_from(missing[k] for k in picked)
    return Topology("random", graph, metropolis(graph, np.ones(n)))


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(1)
    model = build_model(
        request.param, in_channels=2, num_classes=3, image_size=SHAPE[1:], width=0.15
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # no unit is dead, and none is like another
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    model.double()
    random = torch.Generator().manual_seed(0)
    recalibrate(model, [torch.randn(100, *SHAPE, generator=random, dtype=torch.float64)])
    return model.eval(), analyze(model, (torch.zeros(2, *SHAPE, dtype=torch.float64),))


@pytest.fixture(params=CASES, ids="-".join)
def method(request: pytest.FixtureRequest) -> Method:
    name, own = request.param
    return METHODS[name](SETTINGS[own])


def members(network: Network, states: Sequence[State], graph: Topology) -> list[RoundContext]:
    model, analysis = network

    def batches(agent: int) -> list[Tensor]:
        random = torch.Generator().manual_seed(agent)
        return [torch.randn(60, *SHAPE, generator=random, dtype=torch.float64) for _ in range(2)]

    names = [name for name, _ in model.named_parameters()]
    return [
        RoundContext(i, 1, s, graph, names, lambda: analysis, lambda i=i: batches(i))  # type: ignore[misc]
        for i, s in enumerate(states)
    ]


def merge(method: Method, them: Sequence[RoundContext]) -> tuple[list[RoundResult], list[Traffic]]:
    traffic = [Traffic() for _ in them]
    return run_all([method.merge(me) for me in them], traffic), traffic


def perturbed(network: Network, n: int) -> list[State]:
    random = torch.Generator().manual_seed(2)
    return [
        {
            k: v + 0.1 * torch.rand(v.shape, generator=random) if v.is_floating_point() else v + i
            for k, v in network[0].state_dict().items()
        }
        for i in range(n)
    ]


def permuted(network: Network, n: int) -> list[State]:
    model, analysis = network
    random = torch.Generator().manual_seed(3)
    symmetry = analysis.symmetry
    return [symmetry.apply(symmetry.random(random), model.state_dict()) for _ in range(n)]


@pytest.mark.parametrize("seed", tiers(range(3), slow=[1, 2]))
def test_copies_of_one_state_merge_to_it_on_any_graph(
    method: Method, network: Network, seed: int
) -> None:
    state = dict(network[0].state_dict())
    before = copy.deepcopy(state)
    merged, _ = merge(method, members(network, [state] * 6, topology(seed)))
    for result in merged:
        torch.testing.assert_close(result.state, before)
    torch.testing.assert_close(state, before, rtol=0, atol=0)


@pytest.mark.parametrize("own", list(SETTINGS))
@pytest.mark.parametrize("seed", tiers(range(4), slow=[2, 3]))
def test_permuted_copies_merge_to_one_function_on_any_graph(
    network: Network, own: str, seed: int
) -> None:
    states, graph = permuted(network, 6), topology(seed)
    merged, _ = merge(METHODS["dimat"](SETTINGS[own]), members(network, states, graph))
    x = torch.randn(32, *SHAPE, dtype=torch.float64)
    for i, result in enumerate(merged):
        torch.testing.assert_close(
            functional_call(network[0], result.state, x), network[0](x), rtol=1e-9, atol=1e-9
        )
        assert (result.disagreement or 0.0) == pytest.approx(0, abs=1e-9)
        near = [GaugeId(j, 1) for j in (i, *graph.neighbors(i))]
        leader = min(near, key=age).root if own == "spread" else i
        order = states[min(nx.center(graph.graph)) if SETTINGS[own].gauge == "tree" else leader]
        torch.testing.assert_close(result.state, order)


def test_averaging_is_the_dense_product_and_says_how_far_the_neighbors_were(
    network: Network,
) -> None:
    states, graph = perturbed(network, 6), topology(5)
    them = members(network, states, graph)
    merged, _ = merge(METHODS["wa"](Settings()), them)
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
    network: Network,
) -> None:
    """Two paths: permuted neighbors merge to what the neighbors in order merge to."""
    graph, method = topology(2), METHODS["dimat"](Settings("pairwise"))
    model, analysis = network
    base = dict(model.state_dict())
    random = torch.Generator().manual_seed(7)
    states = [
        {k: v + 0.01 * torch.rand(v.shape, generator=random) if v.is_floating_point() else v
         for k, v in base.items()}
        for _ in range(6)
    ]  # fmt: skip
    symmetry = analysis.symmetry
    moves = [symmetry.random(random) for _ in states]
    in_order, _ = merge(METHODS["wa"](Settings()), members(network, states, graph))
    shuffled = [symmetry.apply(p, s) for p, s in zip(moves, states, strict=True)]
    merged, _ = merge(method, members(network, shuffled, graph))
    for p, expected, result in zip(moves, in_order, merged, strict=True):
        torch.testing.assert_close(result.state, symmetry.apply(p, expected.state))
        assert result.disagreement == pytest.approx(expected.disagreement)


def test_bytes_are_a_state_per_edge_and_direction_and_the_permutations_of_the_tree(
    method: Method, network: Network
) -> None:
    states, graph = perturbed(network, 6), topology(4)
    them = members(network, states, graph)
    _, traffic = merge(method, them)
    permutation = network[1].symmetry.identity().num_bytes
    if isinstance(method, FedAvg | DiLoCo):  # the server is agent 0, the graph is not used
        size, others = num_bytes(states[0]), graph.num_agents - 1
        for i, count in enumerate(traffic):
            up = size + 8  # a state, and how many images are behind it
            sent, received = (up, size) if i else (others * size, others * up)
            assert count == Traffic(sent, received)
        return
    each = num_bytes(states[0]) if method.exchanges == "rounds" else 0
    whole = method.merging if isinstance(method, FinalMerge) else method
    own = getattr(whole, "settings", Settings("pairwise"))
    if own.gauge == "tree":
        each += (1 + 2) * permutation  # down the tree, and once a sweep
        each += 12 * graph.num_agents  # everybody's gauge
    if own.gauge == "spread":
        each += 24  # whose order it is in
    if own.statistics == "pooled":
        moments = measure_edges(network[1], states[0], {1: states[1]}, them[0].batches())
        each += num_bytes(encode_moments(moments[1]))
    for i, count in enumerate(traffic):
        assert count == Traffic(*[each * len(graph.neighbors(i))] * 2)


def test_an_agent_alone_keeps_its_state_and_sends_nothing(method: Method, network: Network) -> None:
    states = perturbed(network, 1)
    ((merged,), (traffic,)) = merge(method, members(network, states, topology(0, 1)))
    torch.testing.assert_close(merged.state, states[0], rtol=0, atol=0)
    assert (traffic, merged.disagreement) == (Traffic(), None)


def test_two_agents_meet_in_the_middle(method: Method, network: Network) -> None:
    state = dict(network[0].state_dict())
    merged, _ = merge(method, members(network, [state, state], topology(0, 2)))
    for result in merged:
        torch.testing.assert_close(result.state, state)


def test_a_merge_in_another_process_order_is_the_same_merge(
    method: Method, network: Network
) -> None:
    """What an agent computes depends on what it hears, not on who is resumed first."""
    graph = topology(1)
    first, _ = merge(method, members(network, permuted(network, 6), graph))

    def delayed(talk: Generator[Step, Any, RoundResult], steps: int) -> Talk[RoundResult]:
        for _ in range(steps):
            yield Step()
        return (yield from talk)

    them = members(network, permuted(network, 6), graph)
    talks = [delayed(method.merge(me), 7 * me.agent % 5) for me in them]
    for a, b in zip(first, run_all(talks, [Traffic() for _ in them]), strict=True):
        torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)


def test_a_permutation_that_is_not_one_to_one_stops_the_round(network: Network) -> None:
    """Through the whole talk: agent 0 lies about the order of its units."""
    graph = Topology("pair", nx.path_graph(2), np.full((2, 2), 0.5))
    name = network[1].symmetry.names[0]

    def lying(talk: Generator[Step, Any, RoundResult]) -> Talk[RoundResult]:
        step = next(talk)
        while True:
            send = {
                to: {k: torch.zeros_like(v) if k == name else v for k, v in message.items()}
                for to, message in step.send.items()
            }
            inbox = yield Step(send, step.hear)
            step = talk.send(inbox)

    method = METHODS["dimat"](Settings(sweeps=1))
    honest = [method.merge(me) for me in members(network, permuted(network, 2), graph)]
    with pytest.raises(StructureError, match=f"group '{name}' is not one to one"):
        run_all([lying(honest[0]), honest[1]], [Traffic(), Traffic()])
