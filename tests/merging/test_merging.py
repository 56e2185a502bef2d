"""Mixing, recalibration, and the optimizer in a merge."""

from __future__ import annotations

import copy

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.analyses import analyze
from tests.laws.graphs import connected_graphs
from torch import Tensor, nn

from dimat.errors import StructureError
from dimat.merging import mix, permute_optimizer, recalibrate, reset_optimizer
from dimat.models import build_model
from dimat.topology import metropolis


def random_state(seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(3, 2, generator=random, dtype=torch.float64),
        "half": torch.randn(4, generator=random).bfloat16(),
        "count": torch.tensor(seed),
    }


@settings(max_examples=25)
@given(connected_graphs())
def test_mixing_keeps_the_mean_on_any_graph(graph: nx.Graph[int]) -> None:
    n = len(graph)
    pi = metropolis(graph, np.ones(n))
    states = [random_state(i) for i in range(n)]
    mixed = []
    for i in range(n):
        heard = [i, *sorted(graph.neighbors(i))]
        mixed.append(mix([states[j] for j in heard], [float(pi[i, j]) for j in heard])["w"])
    before = torch.stack([s["w"] for s in states])
    torch.testing.assert_close(torch.stack(mixed).mean(0), before.mean(0))
    dense = torch.einsum("ij,jkl->ikl", torch.from_numpy(pi), before)
    torch.testing.assert_close(torch.stack(mixed), dense)


def test_mixing_copies_of_one_state_returns_it_and_changes_nothing() -> None:
    state = random_state(1)
    before = copy.deepcopy(state)
    mixed = mix([state, state, state], [0.5, 0.25, 0.25])
    torch.testing.assert_close(mixed, state)
    torch.testing.assert_close(state, before, rtol=0, atol=0)
    mixed["w"].zero_()
    torch.testing.assert_close(state, before, rtol=0, atol=0)


def test_counters_are_the_agents_own_and_half_precision_is_summed_in_float32() -> None:
    states = [random_state(i) for i in range(3)]
    mixed = mix(states, [0.5, 0.3, 0.2])
    assert int(mixed["count"]) == 0
    assert mixed["half"].dtype == torch.bfloat16
    wide = sum(w * s["half"].float() for w, s in zip([0.5, 0.3, 0.2], states, strict=True))
    torch.testing.assert_close(mixed["half"], torch.as_tensor(wide).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.4], r"weights \[0.5, 0.4\] sum to 0.900000"),
        ([1.5, -0.5], "must be >= 0"),
        ([1.0], "2 states, 1 weights"),
    ],
)
def test_weights_that_are_no_average_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        mix([random_state(0), random_state(1)], weights)


def test_states_that_do_not_fit_are_refused_by_key() -> None:
    other = {**random_state(1), "w": torch.zeros(4, 2, dtype=torch.float64)}
    with pytest.raises(StructureError, match=r"state 1 does not fit: 'w' has shape \(4, 2\)"):
        mix([random_state(0), other], [0.5, 0.5])
    with pytest.raises(StructureError, match="it lacks 'count'"):
        mix(
            [random_state(0), {k: v for k, v in random_state(1).items() if k != "count"}],
            [0.5, 0.5],
        )


def bn_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5), nn.BatchNorm2d(4)
    )


def test_recalibration_computes_the_statistics_of_its_images() -> None:
    model = bn_model().double()
    model(torch.randn(8, 3, 6, 6, dtype=torch.float64))  # some history
    counters = [int(model[1].num_batches_tracked), int(model[3].num_batches_tracked)]
    weights = copy.deepcopy(dict(model.named_parameters()))
    batches = [torch.randn(8, 3, 6, 6, dtype=torch.float64) for _ in range(3)]
    model[2].eval()
    assert recalibrate(model, batches)
    outputs = [model[0](x) for x in batches]
    means = torch.stack([x.mean((0, 2, 3)) for x in outputs]).mean(0)
    variances = torch.cat(outputs).var((0, 2, 3))
    torch.testing.assert_close(model[1].running_mean, means)
    torch.testing.assert_close(model[1].running_var, variances)
    assert [model[1].momentum, model[3].momentum] == [0.3, 0.1]
    assert [int(model[1].num_batches_tracked), int(model[3].num_batches_tracked)] == counters
    assert [m.training for m in model] == [True, True, False, True]
    torch.testing.assert_close(dict(model.named_parameters()), weights, rtol=0, atol=0)


def test_recalibration_restores_momentum_even_if_a_batch_breaks_the_model() -> None:
    model = bn_model()
    with pytest.raises(RuntimeError):
        recalibrate(model, [torch.zeros(2, 5, 6, 6)])
    assert model[1].momentum == 0.3
    assert model.training


def test_a_model_without_batch_norm_has_nothing_to_recalibrate() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    assert not recalibrate(model, [torch.zeros(2, 3)])


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_training_a_permuted_agent_is_the_permuted_training(
    kind: type[torch.optim.Optimizer],
) -> None:
    """Permute, then train on = train on, then permute: only if the moments follow the units."""
    settings = {"lr": 0.05} if kind is torch.optim.Adam else {"lr": 0.05, "momentum": 0.9}
    torch.manual_seed(1)
    shape = {"in_channels": 2, "num_classes": 3, "image_size": (8, 8)}
    model = build_model("cnn", **shape, width=0.2).double()  # type: ignore[arg-type]
    symmetry = analyze(model, (torch.zeros(2, 2, 8, 8, dtype=torch.float64),)).symmetry
    p = symmetry.random(torch.Generator().manual_seed(2))
    data = [torch.randn(6, 2, 8, 8, dtype=torch.float64) for _ in range(6)]

    def train(net: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> None:
        for x in batches:
            optimizer.zero_grad()
            net(x).logsumexp(1).square().mean().backward()
            optimizer.step()

    optimizer = kind(model.parameters(), **settings)  # type: ignore[call-arg]
    train(model, optimizer, data[:3])
    twin = copy.deepcopy(model)
    twin_optimizer = kind(twin.parameters(), **settings)  # type: ignore[call-arg]
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin.load_state_dict(symmetry.apply(p, twin.state_dict()))
    permute_optimizer(twin_optimizer, twin, lambda entries: symmetry.apply(p, entries))
    train(model, optimizer, data[3:])
    train(twin, twin_optimizer, data[3:])
    torch.testing.assert_close(dict(twin.state_dict()), symmetry.apply(p, model.state_dict()))
    reset_optimizer(optimizer)
    assert not optimizer.state
