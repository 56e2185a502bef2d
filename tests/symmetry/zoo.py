"""Models with their symmetry worked out by hand: the conformance suite runs over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dimat.models import build_model


def log2_factorial(n: int, times: int = 1) -> float:
    return times * math.lgamma(n + 1) / math.log(2)


@dataclass(frozen=True)
class Case:
    """One model.

    Args:
        name: Of the test.
        build: Makes the model.
        inputs: Makes example inputs.
        groups: Sorted (cells, size) of every group.
        fixed: Number of state entries that no element moves.
        kwargs: Makes example keyword inputs.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    groups: tuple[tuple[int, int], ...]
    fixed: int
    kwargs: Callable[[], dict[str, Any]] = dict

    @property
    def log2_order(self) -> float:
        return sum(log2_factorial(size, cells) for cells, size in self.groups)


def images(channels: int = 3, size: int = 8) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.zeros(3, channels, size, size),)


def vectors(*shape: int) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.zeros(3, *shape),)


class Lambda(nn.Module):
    """A forward written as a function of the module and its inputs."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def built_in(name: str, size: int = 32, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: build_model(
        name, in_channels=3, num_classes=10, image_size=(size, size), **settings
    )


def resnet_groups(blocks: int, base: int) -> tuple[tuple[int, int], ...]:
    """A residual stream a stage and one inner group a block."""
    sizes = [base, 2 * base, 4 * base]
    return tuple(sorted((1, n) for n in sizes for _ in range(blocks + 1)))


def batch_norm_counters(norms: int) -> int:
    """Entries num_batches_tracked."""
    return norms


BUILT_IN = (
    Case("mlp", built_in("mlp", 4), images(size=4), ((1, 128), (1, 128)), 10),
    Case("cnn", built_in("cnn", 8), images(), ((1, 32), (1, 64), (1, 64)), 10 + 3),
    Case("resnet20-conv3", built_in("resnet20"), images(size=8), resnet_groups(3, 16), 10 + 21),
    Case(
        "resnet20-conv1",
        built_in("resnet20", shortcut="conv1", width=0.5),
        images(size=8),
        resnet_groups(3, 8),
        10 + 21,
    ),
    # A padded shortcut carries the channels of a stage into the middle of the next: 16, then the
    # 8 + 8 new ones, then 16 + 16 more; two of each new kind are zero before their first block.
    Case(
        "resnet20-pad",
        built_in("resnet20", shortcut="pad", width=0.5),
        images(size=8),
        tuple(sorted([(1, 8)] * 3 + [(1, 16)] * 3 + [(1, 32)] * 3 + [(1, 8), (1, 8), (1, 16)])),
        10 + 19,
    ),
    Case(
        "resnet20-group-norm",
        built_in("resnet20", norm="group", width=0.5),
        images(size=8),
        tuple(
            sorted(
                [(1, 8)] * 4  # 8 channels in 8 groups of one
                + [(1, 8), (8, 2)] * 4  # 16 channels: groups, and pairs inside them
                + [(1, 8), (8, 4)] * 4
            )
        ),
        10,
    ),
    Case(
        "vgg11",
        built_in("vgg11", width=0.125),
        images(size=32),
        tuple(sorted((1, n // 8) for n in (64, 128, 256, 256, 512, 512, 512, 512))),
        10 + 8,
    ),
)
