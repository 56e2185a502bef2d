"""Every operator with a weight is the matrix product that its layer says, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dimat.graph.trace import trace
from dimat.merging.layerwise.layer import Layer, layer_of
from dimat.merging.layerwise.sites import sites

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 7), (4, 5)),
    "linear-tokens": (lambda: nn.Linear(5, 7, bias=False), (4, 3, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0)), (3, 4, 7, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2, padding=1), (2, 2, 4, 3, 5)),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=1, bias=False), (2, 4, 8, 7)),
    "same": (lambda: nn.Conv2d(4, 6, (2, 4), dilation=(1, 2), padding="same"), (2, 4, 8, 9)),
    "valid": (lambda: nn.Conv2d(4, 6, 2, padding="valid"), (2, 4, 5, 5)),
    "grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2, padding=1), (2, 6, 5, 4)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6), (2, 6, 5, 4)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=3, padding=2), (2, 4, 5)),
    "transposed2d": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), output_padding=(1, 2), groups=2),
        (2, 4, 4, 3),
    ),
    "transposed-dilated": (
        lambda: nn.ConvTranspose2d(4, 6, 3, padding=3, dilation=2, bias=False),
        (2, 4, 7, 7),
    ),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 4, 2, stride=2, groups=2), (2, 2, 3, 2, 2)),
}


@pytest.fixture(params=list(LAYERS))
def example(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor, Layer]:
    build, shape = LAYERS[request.param]
    torch.manual_seed(0)
    module = build().double()
    x = torch.randn(shape, dtype=torch.float64)
    (site,) = sites(trace(module, (x,)), sums=True)
    assert (site.weight, site.bias) == ("weight", "bias" if module.bias is not None else None)
    return module, x, layer_of(site.op, module.weight)


def test_the_outputs_are_the_matrix_times_the_patches(
    example: tuple[nn.Module, torch.Tensor, Layer],
) -> None:
    module, x, layer = example
    output = module(x)
    rows = torch.randperm(layer.num_rows(output))[: layer.num_rows(output) // 2 + 1]
    z = layer.inputs(x, rows)
    product = torch.einsum("rgi,goi->rgo", z, layer.matrix(module.weight))
    if module.bias is not None:
        product = product + module.bias.reshape(layer.groups, -1)
    torch.testing.assert_close(product, layer.outputs(output, rows))


def test_a_weight_goes_into_the_matrix_and_back(
    example: tuple[nn.Module, torch.Tensor, Layer],
) -> None:
    module, _, layer = example
    back = layer.weight(layer.matrix(module.weight), module.weight)
    torch.testing.assert_close(back, module.weight, rtol=0, atol=0)


def test_rows_of_any_memory_format_are_the_same(
    example: tuple[nn.Module, torch.Tensor, Layer],
) -> None:
    module, x, layer = example
    rows = torch.arange(layer.num_rows(module(x)))
    strided = x.transpose(0, -1).contiguous().transpose(0, -1)
    torch.testing.assert_close(layer.inputs(strided, rows), layer.inputs(x, rows))
