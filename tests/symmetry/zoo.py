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
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    groups: tuple[tuple[int, int], ...]
    fixed: int

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
