"""Sums of outer products are those of the rows, whichever way they are made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.merging.test_layer import LAYERS
from torch import Tensor, nn

from dimat.graph.trace import trace
from dimat.merging import Regression
from dimat.merging.batch_moments import batch_moments
from dimat.merging.layerwise import gram, regression
from dimat.merging.layerwise.gram import Gram
from dimat.merging.layerwise.layer import Layer, layer_of
from dimat.merging.layerwise.products import add_products, mirror, patch_products, pays
from dimat.merging.layerwise.sites import sites
from dimat.models import build_model
from dimat.state import state_of
from dimat.symmetry import analyze

SPATIAL = [name for name in LAYERS if not name.startswith("linear")]


@pytest.fixture(params=SPATIAL)
def convolution(request: pytest.FixtureRequest) -> tuple[Layer, Tensor, Tensor]:
    """A convolution of any kind, an input, and (groups, rows, inputs) of all its patches."""
    build, shape = LAYERS[request.param]
    torch.manual_seed(0)
    module = build().double()
    x = torch.randn(shape, dtype=torch.float64)
    (site,) = sites(trace(module, (x,)), sums=True)
    layer = layer_of(site.op, module.weight)
    output = module(x)
    assert layer.places(x.shape[2:]) == tuple(output.shape[2:])
    z = layer.inputs(x, torch.arange(layer.num_rows(output))).transpose(0, 1)
    return layer, x, z


def test_products_of_positions_are_those_of_all_patches(
    convolution: tuple[Layer, Tensor, Tensor],
) -> None:
    layer, x, z = convolution
    products, sums = patch_products(layer, x.split(1))
    torch.testing.assert_close(products, z.mT @ z)
    torch.testing.assert_close(sums, z.sum(1))


def test_inputs_that_hardly_vary_keep_their_digits_beside_large_ones_of_their_channel() -> None:
    """One mean a channel would round them away: a regression then gives them any weight."""
    layer = Layer(1, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), (1, 1))
    random = torch.Generator().manual_seed(0)
    x = 1e-6 * torch.randn(200, 4, 2, 2, generator=random)
    x[:, :, 0, 0] *= 1e6  # large at one position of the image
    x[:, :, 1] += 3
    z = layer.inputs(x.double(), torch.arange(800))[:, 0]
    expected = z.T @ z - z.sum(0)[:, None] * z.sum(0) / 800
    products, sums = patch_products(layer, x.split(50))
    found = products[0] - sums[0][:, None] * sums[0] / 800
    scale = expected.diagonal().sqrt()
    assert ((found - expected) / scale[:, None] / scale).abs().max() < 1e-5


def test_entries_that_only_see_padding_stay_zero_to_the_last_bit() -> None:
    """Or rounding errors would be all their variance, and a fit would give them any weight."""
    layer = Layer(1, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), (1, 1))
    products, sums = patch_products(layer, [torch.rand(50, 2, 1, 1)])
    seen = torch.zeros(18, dtype=torch.bool)
    seen[[4, 13]] = True
    assert not products[0][~seen].any()
    assert not sums[0][~seen].any()
    assert products[0][seen][:, seen].any()


@pytest.mark.parametrize("size", [1, 5, 128, 300, 1100])
def test_half_of_the_products_make_the_whole(size: int) -> None:
    z = torch.randn(2, 3, 7, size, generator=torch.Generator().manual_seed(0)).double()
    own = torch.zeros(3, size, size, dtype=torch.float64)
    for part in z:
        add_products(own, part)
    torch.testing.assert_close(mirror(own), (z.mT @ z).sum(0))
    assert torch.equal(own, own.mT)


def test_small_images_share_products_and_large_ones_do_not() -> None:
    layer = Layer(1, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), (1, 1))
    for side, found in ((2, True), (4, True), (32, False)):
        assert pays(layer, [torch.zeros(1000, 1, side, side)], 10_000) is found
    assert not pays(Layer(1), [torch.zeros(1000, 5)], 10_000)


@pytest.mark.parametrize("combiner", [Regression(), Gram()], ids=["regression", "gram"])
def test_a_merge_is_the_same_whichever_way_its_products_are_made(
    combiner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grams of few images are of all places in both ways."""
    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = build_model("cnn", in_channels=3, num_classes=4, image_size=(8, 8)).double()
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.running_mean)
        states.append(state_of(model.eval()))
    random = torch.Generator().manual_seed(0)
    batches = [1 + torch.randn(30, 3, 8, 8, generator=random).double() for _ in range(2)]
    analysis = analyze(model, (batches[0][:2],))
    asked = []

    def merged(answer: bool) -> Any:
        def said(*given: Any) -> bool:
            asked.append(pays(*given))
            return answer and bool(given[0].spatial)

        for module in (gram, regression):
            monkeypatch.setattr(module, "pays", said)
        return combiner.combine(analysis, states, [0.4, 0.6], batches)

    shared, dense = merged(True), merged(False)
    assert any(asked)
    for key, value in dense.items():
        torch.testing.assert_close(shared[key], value, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_moments_of_a_batch_are_exact_though_they_are_summed_in_blocks(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    random = torch.Generator().manual_seed(0)
    x = 40 + torch.randn(700, 5, 16, 16, generator=random) * torch.arange(5)[:, None, None]
    x = (x + torch.arange(700)[:, None, None, None] / 100).to(dtype)
    x = x.contiguous(memory_format=layout)  # some 3 MB, so several blocks, that drift
    values = x.double().transpose(0, 1).flatten(1)
    expected = torch.stack([values.var(1, correction=0), values.mean(1)])
    close = {} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 0.0}
    torch.testing.assert_close(batch_moments(x), expected, **close)


def test_a_channel_that_does_not_vary_has_no_negative_variance() -> None:
    variance, mean = batch_moments(torch.full((1000, 2, 20, 20), 0.1))
    assert (variance >= 0).all()
    assert (variance < 1e-12).all()
    torch.testing.assert_close(mean, torch.full((2,), 0.1).double())
