"""Recalibration of BatchNorm statistics, which an average of networks does not inherit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dimat.compat import BatchNorm
from dimat.errors import DataError
from dimat.merging.batch_moments import batch_moments


def recalibrate(
    model: nn.Module, batches: Iterable[Any], run: Callable[[Any], Any] | None = None
) -> bool:
    r"""Set the BatchNorm running statistics of ``model`` to those of all ``batches`` together.

    .. math:: \mu = \sum_b \tfrac{n_b}{n} \mu_b, \qquad
        \sigma^2 = \tfrac{1}{n - 1} \sum_b n_b \left(\sigma_b^2 + (\mu_b - \mu)^2\right)

    for the :math:`n_b` values of a channel in batch b: the variance between batches counts, and a
    short batch counts for less. The layers before a layer normalize by the statistics of the
    batches so far: for the first batch as in training mode, later with an error that goes down as
    statistics settle. So batches should be alike, each a mixture of all data.

    ``momentum``, the batch counters and every module's mode are as before. Other layers (dropout)
    run in eval mode.

    Args:
        model: The agent's own model; its running statistics are changed, nothing else.
        batches: Inputs from the agent's own shard.
        run: A function that runs the model on one batch; None: ``model(inputs)``.

    Returns:
        Whether there was anything to recalibrate: statistics that are not frozen.

    Raises:
        DataError: If a BatchNorm gets one value a channel only, which has no variance.
    """
    norms = calibrated_norms(model)
    if not norms:
        return False
    modes = {m: m.training for m in model.modules()}
    pools = [_Pool(norm) for norm in norms]
    model.eval()
    try:
        with torch.no_grad():
            for inputs in batches:
                (run or model)(inputs)
        for pool in pools:
            pool.finish()
    finally:
        for pool in pools:
            pool.hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return True


class _Pool:
    """The pooled moments of all inputs of one BatchNorm, which normalizes by those so far."""

    def __init__(self, norm: BatchNorm) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.mean, self.variance = norm.running_mean, norm.running_var
        self.count, self.moments = 0, torch.zeros(2, len(self.mean), dtype=torch.float64)
        self.hook = norm.register_forward_pre_hook(lambda _, inputs: self.add(inputs[0]))

    def add(self, x: Tensor) -> None:
        """Add the inputs of one batch, (samples, channels, places …)."""
        if not x.numel():
            return
        own = batch_moments(x)
        self.moments = self.moments.to(x.device)
        share = x.numel() // x.shape[1]
        self.count += share
        apart = own[1] - self.moments[1]
        part = share / self.count
        self.moments = self.moments.lerp(own, part)
        self.moments[0] += part * (1 - part) * apart.square()
        self._write(1.0)

    def finish(self) -> None:
        """Write the unbiased variance; without any batch the statistics stay as they were."""
        if self.count == 1:
            raise DataError(
                "a BatchNorm sees one value a channel, which has no variance: give more samples"
            )
        if self.count:
            self._write(self.count / (self.count - 1))

    def _write(self, correction: float) -> None:
        self.variance.copy_(self.moments[0] * correction)
        self.mean.copy_(self.moments[1])


def calibrated_norms(model: nn.Module) -> list[BatchNorm]:
    """The BatchNorm modules whose running statistics are not frozen.

    Frozen are modules that stay in eval mode when the model is put in training mode, by a ``train``
    of their own, and modules that are in eval mode while the model is in training mode.

    Args:
        model: Not changed.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]
    if not norms:
        return []
    modes = {m: m.training for m in model.modules()}
    frozen = {m for m in norms if modes[model] and not modes[m]}
    try:
        model.train()
        return [m for m in norms if m.training and m not in frozen]
    finally:
        for module, mode in modes.items():
            module.training = mode
