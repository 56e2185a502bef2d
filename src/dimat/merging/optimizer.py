"""The optimizer's memory in a merge: it follows the agent's own units, or is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Move = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def permute_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, move: Move) -> None:
    """Move momenta and moments as their parameters' units move; step counters stay.

    Args:
        optimizer: Of the parameters of ``model``; changed in place, it is the agent's own.
        model: Names the parameters.
        move: Takes entries by state key and returns them moved, as ``Symmetry.apply`` does.
    """
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for parameter, memory in optimizer.state.items():
        for kind, value in memory.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0:
                name = names[parameter]
                value.copy_(move({name: value})[name])
            memory[kind] = value


def reset_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Forget all momenta and moments."""
    optimizer.state.clear()
