"""Small networks with low-rank adapters on a frozen base, written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Adapted(nn.Module):
    """A frozen linear layer and what its adapter adds."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = nn.Linear(inputs, rank, bias=False)
        self.lora_B = nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.base(x) + self.lora_B(self.lora_A(x))
        return found


class AdaptedNet(nn.Module):
    """Two adapted layers, BatchNorm between them, and a head; the base is alike whatever the seed.

    Args:
        inputs: Width of the inputs.
        classes: Width of the outputs.
        rank: Rank of the adapters.
        base: Seed of the base.
    """

    def __init__(self, inputs: int = 6, classes: int = 3, rank: int = 4, base: int = 0) -> None:
        super().__init__()
        self.first, self.second = Adapted(inputs, 8, rank), Adapted(8, 8, rank)
        self.norm = nn.BatchNorm1d(8)
        self.norm.requires_grad_(False)
        self.head = nn.Linear(8, classes)
        random = torch.Generator().manual_seed(base)
        for layer in (self.first.base, self.second.base):
            for value in layer.parameters():
                value.data = 0.5 * torch.randn(value.shape, generator=random)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(x.flatten(1))))
        found: Tensor = self.head(torch.relu(self.second(hidden)))
        return found


def factory(input_shape: Sequence[int], num_classes: int) -> AdaptedNet:
    """The network for a data set."""
    return AdaptedNet(math.prod(input_shape), num_classes)


def own_base(input_shape: Sequence[int], num_classes: int) -> AdaptedNet:
    """The same on a base that each agent draws itself."""
    seed = int(torch.randint(1 << 30, ()))
    return AdaptedNet(math.prod(input_shape), num_classes, base=seed)


def net(seed: int, base: int = 0) -> AdaptedNet:
    """A network whose trained entries are drawn by a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AdaptedNet(base=base)
