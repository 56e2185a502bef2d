"""One conformance suite over all methods, on an irregular graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from tests.analyses import analyze
from tests.laws.graphs import PAW
from torch import Tensor, nn
from torch.func import functional_call

from dimat.errors import StructureError
from dimat.exchange import Traffic
from dimat.exchange.in_process import run_all
from dimat.matching.unit_activations import observations
from dimat.merging import recalibrate
from dimat.methods import Averaging, Dimat, Local, Method, RoundContext, RoundResult
from dimat.methods.gauge import GaugeId, colors, decode, encode
from dimat.models import build_model
from dimat.state import State, num_bytes
from dimat.symmetry import Analysis
from dimat.topology import Topology, metropolis

METHODS: dict[str, Method] = {
    "local": Local(),
    "wa": Averaging(),
    "dimat-tree": Dimat("tree"),
    "dimat-tree-without-sweeps": Dimat("tree", sweeps=0),
    "dimat-pairwise": Dimat("pairwise"),
    "dimat-tree-pooled": Dimat("tree", "pooled"),
    "dimat-pairwise-pooled": Dimat("pairwise", "pooled"),
}
TOPOLOGY = Topology("paw", PAW, metropolis(PAW, np.ones(4)))
ID_BYTES = 12  # an agent, the root and the generation of its gauge
Make = Callable[[list[State]], list[RoundContext]]


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    built = build_model(request.param, in_channels=2, num_classes=4, image_size=(8, 8), width=0.2)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):  # no unit is dead, and none is like another
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    recalibrate(built, [torch.randn(100, 2, 8, 8)])
    return built


@pytest.fixture(scope="module")
def analysis(model: nn.Module) -> Analysis:
    return analyze(model, (torch.zeros(2, 2, 8, 8),))


@pytest.fixture(params=list(METHODS))
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]


def members(model: nn.Module, analysis: Analysis, states: list[State]) -> list[RoundContext]:
    def batches(agent: int) -> list[Tensor]:
        random = torch.Generator().manual_seed(agent)
        return [torch.randn(40, 2, 8, 8, generator=random) for _ in range(3)]

    names = [name for name, _ in model.named_parameters()]
    return [
        RoundContext(i, 1, s, TOPOLOGY, names, lambda: analysis, lambda i=i: batches(i))  # type: ignore[misc]
        for i, s in enumerate(states)
    ]


def merge(method: Method, them: list[RoundContext]) -> tuple[list[RoundResult], list[Traffic]]:
    traffic = [Traffic() for _ in them]
    return run_all([method.merge(me) for me in them], traffic), traffic


def random_states(model: nn.Module, count: int = 4) -> list[State]:
    random = torch.Generator().manual_seed(5)
    return [
        {
            k: v + 0.1 * torch.rand(v.shape, generator=random) if v.is_floating_point() else v
            for k, v in model.state_dict().items()
        }
        for _ in range(count)
    ]


def permuted_copies(model: nn.Module, analysis: Analysis) -> list[State]:
    random = torch.Generator().manual_seed(6)
    symmetry = analysis.symmetry
    return [symmetry.apply(symmetry.random(random), model.state_dict()) for _ in range(4)]


def test_copies_of_one_state_merge_to_it(
    method: Method, model: nn.Module, analysis: Analysis
) -> None:
    state = dict(model.state_dict())
    merged, _ = merge(method, members(model, analysis, [state] * 4))
    for result in merged:
        torch.testing.assert_close(result.state, state)
        assert result.disagreement is None or result.disagreement == pytest.approx(0, abs=1e-5)


def test_a_merge_changes_no_state_in_place(
    method: Method, model: nn.Module, analysis: Analysis
) -> None:
    states = random_states(model)
    before = copy.deepcopy(states)
    merged, _ = merge(method, members(model, analysis, states))
    for result in merged:
        for value in result.state.values():
            value.add_(1)
    if not isinstance(method, Local):
        torch.testing.assert_close(states, before, rtol=0, atol=0)


def test_averaging_is_the_product_with_the_mixing_matrix(
    model: nn.Module, analysis: Analysis
) -> None:
    states = random_states(model)
    merged, _ = merge(Averaging(), members(model, analysis, states))
    for key, value in states[0].items():
        if value.is_floating_point():
            stacked = torch.stack([s[key] for s in states]).double()
            dense = torch.tensordot(torch.from_numpy(TOPOLOGY.pi), stacked, 1)
            found = torch.stack([m.state[key] for m in merged]).double()
            torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("dimat")])
def test_permuted_copies_of_one_model_merge_to_its_function(
    name: str, model: nn.Module, analysis: Analysis
) -> None:
    states = permuted_copies(model, analysis)
    merged, _ = merge(METHODS[name], members(model, analysis, states))
    model.eval()
    x = torch.randn(16, 2, 8, 8)
    expected = model(x)
    for result in merged:
        torch.testing.assert_close(
            functional_call(model, result.state, x), expected, rtol=1e-3, atol=1e-4
        )
        assert result.disagreement == pytest.approx(0, abs=1e-4)


def test_averaging_destroys_permuted_copies(model: nn.Module, analysis: Analysis) -> None:
    states = permuted_copies(model, analysis)
    merged, _ = merge(Averaging(), members(model, analysis, states))
    x = torch.randn(16, 2, 8, 8)
    model.eval()
    assert not torch.allclose(functional_call(model, merged[2].state, x), model(x), atol=1e-2)


def test_the_tree_gauge_puts_all_agents_in_one_order_and_says_how_each_moved(
    model: nn.Module, analysis: Analysis
) -> None:
    states = permuted_copies(model, analysis)
    merged, _ = merge(METHODS["dimat-tree"], members(model, analysis, states))
    root = min(nx.center(TOPOLOGY.graph))
    for state, result in zip(states, merged, strict=True):
        assert result.permutation is not None
        torch.testing.assert_close(result.state, states[root], rtol=1e-5, atol=1e-6)
        moved = analysis.symmetry.apply(result.permutation, state)
        torch.testing.assert_close(moved, states[root], rtol=0, atol=0)


def test_the_tree_gauge_keeps_the_mean_in_its_order(model: nn.Module, analysis: Analysis) -> None:
    states = random_states(model)
    merged, _ = merge(METHODS["dimat-tree"], members(model, analysis, states))
    symmetry = analysis.symmetry
    ordered = [
        symmetry.apply(m.permutation, s)  # type: ignore[arg-type]
        for m, s in zip(merged, states, strict=True)
    ]
    for key in merged[0].state:
        if states[0][key].is_floating_point():
            before = torch.stack([s[key] for s in ordered]).mean(0)
            after = torch.stack([m.state[key] for m in merged]).mean(0)
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_in_one_gauge_states_are_mixed_as_they_are(model: nn.Module, analysis: Analysis) -> None:
    one = GaugeId(2, 1)
    them = [replace(m, round=2, gauge=one) for m in members(model, analysis, random_states(model))]
    ours, _ = merge(METHODS["dimat-tree"], them)
    plain, _ = merge(Averaging(), them)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)
        assert (a.permutation, a.gauge) == (None, one)
    again, _ = merge(Dimat("tree", sweeps=0, every=1), them)
    assert all(m.permutation is not None for m in again)
    assert {m.gauge for m in again} == {GaugeId(min(nx.center(TOPOLOGY.graph)), 2)}


def test_bytes_are_one_state_per_edge_and_direction_and_the_permutations(
    method: Method, model: nn.Module, analysis: Analysis
) -> None:
    states = random_states(model)
    _, traffic = merge(method, members(model, analysis, states))
    degrees = [len(TOPOLOGY.neighbors(i)) for i in range(4)]
    size = num_bytes(states[0])
    permutation = analysis.symmetry.identity().num_bytes
    for count, degree in zip(traffic, degrees, strict=True):
        if isinstance(method, Local):
            assert count.sent_bytes == count.received_bytes == 0
            continue
        own = method if isinstance(method, Dimat) else Dimat("pairwise")
        each = size
        if own.gauge == "tree":
            each += (1 + own.sweeps) * permutation + 4 * ID_BYTES
        if own.statistics == "pooled":
            each += moments_bytes(analysis)
        assert count.sent_bytes == degree * each
        assert count.received_bytes == count.sent_bytes


def moments_bytes(analysis: Analysis) -> int:
    """Float32 for a C x C matrix, six vectors of C and a count, for every place observed."""
    places = observations(analysis, "all")
    sizes = {g.name: g.cells * g.size for g in analysis.symmetry.groups}
    return sum(4 * (sizes[o.group] ** 2 + 6 * sizes[o.group] + 1) for o in places)


def test_agents_that_refine_at_once_are_no_neighbors() -> None:
    turns = colors(PAW)
    assert sorted(i for turn in turns for i in turn) == [0, 1, 2, 3]
    assert not any(PAW.has_edge(i, j) for turn in turns for i in turn for j in turn)


def test_a_permutation_that_is_not_one_to_one_is_refused(analysis: Analysis) -> None:
    symmetry = analysis.symmetry
    message = encode(symmetry.random(torch.Generator().manual_seed(0)))
    name = symmetry.names[0]
    decode(symmetry, message)
    with pytest.raises(StructureError, match=f"'{name}' is not one to one"):
        decode(symmetry, {**message, name: torch.zeros_like(message[name])})
    with pytest.raises(StructureError, match=f"'{name}' has shape None"):
        decode(symmetry, {k: v for k, v in message.items() if k != name})
    with pytest.raises(StructureError, match="expected"):
        decode(symmetry, {**message, name: message[name][:, 1:]})


def test_a_neighbors_state_that_does_not_fit_is_refused_by_its_number(
    model: nn.Module, analysis: Analysis
) -> None:
    states = random_states(model)
    key = next(iter(states[0]))
    states[3] = {**states[3], key: states[3][key][1:]}
    with pytest.raises(StructureError, match=f"state from agent 3 does not fit: '{key}'"):
        merge(Averaging(), members(model, analysis, states))
