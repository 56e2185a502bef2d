"""Recompute BatchNorm statistics: those of an average of networks are not the average of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def recalibrate(
    model: nn.Module, batches: Iterable[Any], run: Callable[[Any], Any] | None = None
) -> bool:
    """Set the BatchNorm running statistics of ``model`` to those of ``batches``.

    The statistics become the equal-weighted mean over the batches; ``momentum``, the batch counters
    and every module's mode are as before. Other layers (dropout) run in eval mode.

    Args:
        model: The agent's own model; its running statistics are changed, nothing else.
        batches: Inputs from the agent's own shard.
        run: Runs the model on one of them, where that is not ``model(inputs)``.

    Returns:
        Whether there was anything to recalibrate.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return False
    modes = {m: m.training for m in model.modules()}
    kept = [(m.momentum, _counter(m)) for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    try:
        with torch.no_grad():
            for inputs in batches:
                (run or model)(inputs)
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            if counter is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(counter)
        for module, mode in modes.items():
            module.training = mode
    return True


def _counter(norm: _BatchNorm) -> Tensor | None:
    counter = norm.num_batches_tracked
    return None if counter is None else counter.clone()
