"""Regression against its closed form, and what it promises layer by layer."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests.analyses import trace
from torch import Tensor, nn
from torch.func import functional_call

from dimat.graph.interpreter import PartialInterpreter
from dimat.merging import Regression, mix
from dimat.merging.layerwise.layerwise_run import LayerwiseRun
from dimat.merging.layerwise.regression import NormalEquations
from dimat.merging.layerwise.sites import sites
from dimat.models import build_model
from dimat.state import State, state_of
from dimat.symmetry import Analysis, Symmetry


def analysis_of(model: nn.Module, *inputs: Tensor) -> Analysis:
    """Its graph alone: combining reads nothing else."""
    symmetry = Symmetry.from_axes({}, model.state_dict())
    return Analysis(trace(model, inputs), {}, symmetry)


def drawn(model: nn.Module, count: int) -> list[State]:
    """States whose units differ by some noise, scales of both signs among them."""
    random = torch.Generator().manual_seed(1)
    base = {
        k: v if not v.is_floating_point() or "running_var" in k
        else v + 0.3 * torch.randn(v.shape, generator=random)
        for k, v in state_of(model).items()
    }  # fmt: skip
    return [
        {
            k: v + 0.2 * torch.rand(v.shape, generator=random) if v.is_floating_point() else v
            for k, v in base.items()
        }
        for _ in range(count)
    ]


def test_one_layer_is_the_closed_form() -> None:
    model = nn.Linear(4, 3, bias=False).double()
    states, weights = drawn(model, 3), [0.5, 0.3, 0.2]
    x = torch.randn(50, 4, dtype=torch.float64)
    found = Regression(ridge=0.7).combine(analysis_of(model, x), states, weights, [x])
    z = x.numpy().T
    mean = sum(w * s["weight"].numpy() for w, s in zip(weights, states, strict=True))
    gram = z @ z.T / 50
    d = np.diag(0.7 * np.diag(gram) + 1e-6 * np.diag(gram).mean() + 1e-12)
    target = mean @ z  # the parents' mean output is linear in their weights
    expected = (target @ z.T / 50 + mean @ d) @ np.linalg.inv(gram + d)
    np.testing.assert_allclose(found["weight"].numpy(), expected)
    np.testing.assert_allclose(found["weight"].numpy(), mean)  # one linear layer loses nothing


def test_moments_give_ridge_regression_with_an_intercept() -> None:
    random = np.random.default_rng(0)
    z, target = random.normal(size=(80, 5)) + 2, random.normal(size=(80, 3))
    start = random.normal(size=(3, 5))
    moments = NormalEquations(torch.from_numpy(start)[None], intercept=True)
    for part in np.split(np.arange(80), 4):
        moments.update(torch.from_numpy(z[part])[:, None], torch.from_numpy(target[part])[:, None])
    matrix, intercept = moments.solve(0.1)
    centered, gap = z - z.mean(0), target - z @ start.T
    gram = centered.T @ centered / 80
    d = 0.1 * gram.diagonal() + 1e-6 * gram.diagonal().mean() + 1e-12
    change = np.linalg.solve(gram + np.diag(d), centered.T @ (gap - gap.mean(0)) / 80).T
    np.testing.assert_allclose(matrix[0].numpy(), start + change)
    np.testing.assert_allclose(intercept.numpy(), (target - z @ (start + change).T).mean(0))


@pytest.mark.parametrize("ridge", [1e-9, 1e9])
def test_the_ridge_goes_from_least_squares_to_the_start(ridge: float) -> None:
    random = torch.Generator().manual_seed(0)
    z = torch.randn(200, 2, 3, generator=random, dtype=torch.float64)
    truth = torch.randn(2, 4, 3, generator=random, dtype=torch.float64)
    moments = NormalEquations(torch.zeros_like(truth), intercept=False)
    moments.update(z, torch.einsum("rgi,goi->rgo", z, truth))
    matrix, intercept = moments.solve(ridge)
    expected = truth if ridge < 1 else torch.zeros_like(truth)
    torch.testing.assert_close(matrix, expected, rtol=1e-4, atol=1e-4)
    assert not intercept.any()


def test_inputs_that_are_always_zero_keep_their_averaged_weights() -> None:
    start = torch.randn(1, 2, 3, dtype=torch.float64)
    moments = NormalEquations(start, intercept=True)
    z = torch.randn(30, 1, 3, dtype=torch.float64)
    z[:, :, 1] = 0
    moments.update(z, torch.randn(30, 1, 2, dtype=torch.float64))
    matrix, _ = moments.solve(0.003)
    assert torch.isfinite(matrix).all()
    torch.testing.assert_close(matrix[..., 1], start[..., 1])


def small(name: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, in_channels=3, num_classes=4, image_size=(8, 8), **settings)


class PreActivation(nn.Module):
    """A norm that stands alone, a residual sum, a shared layer, dropout, an embedding of places."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), norm
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.places = nn.Parameter(torch.randn(1, 6, 8, 8))
        self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.places
        x = x + self.drop(self.conv(self.norm(x).relu()))
        return self.head(self.shared(self.shared(x.mean((2, 3))).relu()))


MODELS = {
    "mlp": lambda: small("mlp", width=0.2),
    "cnn": lambda: small("cnn", width=0.3),
    "resnet20": lambda: small("resnet20", width=0.25),
    "resnet20-group": lambda: small("resnet20", width=0.5, norm="group"),
    "batch-norm-alone": lambda: PreActivation(nn.BatchNorm2d(6)),
    "no-affine": lambda: PreActivation(nn.BatchNorm2d(6, affine=False)),
    "group-norm-alone": lambda: PreActivation(nn.GroupNorm(2, 6)),
    "layer-norm-over-images": lambda: PreActivation(nn.LayerNorm((6, 8, 8))),
    "instance-norm": lambda: PreActivation(nn.InstanceNorm2d(6, affine=True)),
}


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    built: nn.Module = MODELS[request.param]()
    return built.double().eval()


def inputs() -> list[Tensor]:
    random = torch.Generator().manual_seed(2)
    return [torch.randn(n, 3, 8, 8, generator=random, dtype=torch.float64) for n in (40, 17)]


def test_copies_of_one_state_keep_its_function(model: nn.Module) -> None:
    batches = inputs()
    (state,) = drawn(model, 1)
    analysis = analysis_of(model, batches[0][:2])
    found = Regression().combine(analysis, [state] * 2, [0.4, 0.6], batches)
    if getattr(getattr(model, "norm", None), "affine", True) is False:  # nothing to make up with
        seen = torch.cat(batches)
        values = nn.functional.conv2d(seen, state["stem.weight"], state["stem.bias"], padding=1)
        var, mean = torch.var_mean(values + state["places"], (0, 2, 3))
        torch.testing.assert_close(found["norm.running_mean"], mean)
        torch.testing.assert_close(found["norm.running_var"], var)
        return
    x = torch.randn(9, 3, 8, 8, dtype=torch.float64)  # on inputs never seen
    outputs = [functional_call(model, s, x) for s in (found, state)]
    torch.testing.assert_close(*outputs)


def error(model: nn.Module, states: list[State], found: State, batches: list[Tensor]) -> float:
    """Mean squared distance from the mean of the parents' outputs."""
    total = 0.0
    with torch.no_grad():
        for x in batches:
            target = sum(functional_call(model, s, x) for s in states) / len(states)
            total += float((functional_call(model, found, x) - target).square().sum())
    return total


def test_the_outputs_come_closer_to_the_parents_mean_than_those_of_the_average(
    model: nn.Module,
) -> None:
    batches, states = inputs(), drawn(model, 3)
    before = copy.deepcopy(states)
    found = Regression().combine(analysis_of(model, batches[0][:2]), states, [1 / 3] * 3, batches)
    plain = error(model, states, mix(states, [1 / 3] * 3), batches)
    assert error(model, states, found, batches) < 0.5 * plain
    torch.testing.assert_close(states, before, rtol=0, atol=0)


def test_a_batch_norm_does_the_same_in_training_and_in_eval_mode() -> None:
    model = small("cnn", width=0.3)
    (x,) = inputs()[:1]
    model = model.double()
    states = drawn(model, 2)
    found = Regression().combine(analysis_of(model, x[:2]), states, [0.5, 0.5], [x])
    outputs = [functional_call(model.train(mode), dict(found), x) for mode in (False, True)]
    torch.testing.assert_close(*outputs, rtol=1e-2, atol=1e-2)  # biased against unbiased variance


def test_the_layer_keeps_the_length_of_its_averaged_weights_and_the_signs_of_its_norm() -> None:
    model = small("cnn", width=0.3).double()
    states = drawn(model, 2)
    for state in states:
        for key in state:
            if "norm" in key and key.endswith("weight"):
                state[key] = -state[key]
    found = Regression().combine(analysis_of(model, inputs()[0][:2]), states, [0.5, 0.5], inputs())
    averaged = mix(states, [0.5, 0.5])
    for key, value in found.items():
        if value.dim() == 4:
            torch.testing.assert_close(
                value.flatten(1).norm(dim=1), averaged[key].flatten(1).norm(dim=1)
            )
    for site in sites(trace(model, (inputs()[0],)), sums=True):
        if site.scale is not None:
            assert torch.equal(found[site.scale] < 0, averaged[site.scale] < 0)


def test_what_cannot_be_fitted_is_averaged() -> None:
    model = PreActivation(nn.BatchNorm2d(6)).double().eval()
    states = drawn(model, 2)
    found = Regression().combine(analysis_of(model, inputs()[0]), states, [0.5, 0.5], inputs())
    averaged = mix(states, [0.5, 0.5])
    for key in ("places", "shared.weight", "shared.bias"):
        torch.testing.assert_close(found[key], averaged[key])
    fitted = {s.weight for s in sites(trace(model, (inputs()[0],)), sums=True)}
    assert fitted == {"stem.weight", "norm.weight", "conv.weight", "head.weight"}


def test_a_layer_is_fitted_at_the_residual_sum_through_dropout() -> None:
    model = PreActivation(nn.GroupNorm(2, 6))
    found = {s.weight: s for s in sites(trace(model, (torch.zeros(2, 3, 8, 8),)), sums=True)}
    assert found["conv.weight"].other is not None
    assert found["conv.weight"].end.target is torch.ops.aten.add.Tensor
    assert found["head.weight"].other is None


def test_half_precision_is_fitted_in_float32_and_comes_back_as_it_was() -> None:
    model = small("mlp", width=0.2)
    states = drawn(model, 2)
    half = [{k: v.bfloat16() for k, v in s.items()} for s in states]
    batches = [x.float() for x in inputs()]
    analysis = analysis_of(model, batches[0][:2])
    found = Regression().combine(analysis, half, [0.5, 0.5], batches)
    wide = [{k: v.float() for k, v in s.items()} for s in half]
    expected = Regression().combine(analysis, wide, [0.5, 0.5], batches)
    assert {v.dtype for v in found.values()} == {torch.bfloat16}
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key].bfloat16(), rtol=0, atol=0)


def test_a_run_keeps_no_value_longer_than_it_is_read() -> None:
    model = small("resnet20", width=0.25).eval()
    t = trace(model, (torch.zeros(2, 3, 8, 8),))
    x = torch.randn(5, 3, 8, 8)
    run = PartialInterpreter(t, model.state_dict(), x)
    most = 0
    nodes = [n for n in t.graph.nodes if n.op == "call_function"]
    for node in nodes:
        run.advance(node)
        most = max(most, len(run._values))
    assert most <= 4  # a shortcut, the result, a BatchNorm's triple and its first part
    torch.testing.assert_close(run.value(nodes[-1]), model(x))


def test_early_layers_look_at_few_batches_and_late_ones_at_all() -> None:
    model = small("resnet20", width=0.25).eval()
    t = trace(model, (torch.zeros(2, 3, 8, 8),))
    state = state_of(model)
    batches = [torch.randn(10, 3, 8, 8) for _ in range(6)]
    layerwise = LayerwiseRun(t, [state, state], state, [0.5, 0.5], batches)
    used = [len(layerwise.at(site, 330).ours) for site in sites(t, sums=True)]
    assert used[0] == 3  # 64 places of 10 samples, counted as 16 each: 160 rows a batch
    assert used[-1] == 6  # one row a sample
    assert used == sorted(used)
    most = [sum(len(run._values) for run in layerwise.ours)]
    assert most[0] <= 6 * 4
