"""The task ``regression``: one number or several for every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dimat.errors import DataError
from dimat.metric import Metric
from dimat.tasks.finite import as_floats
from dimat.tasks.likelihoods import check_axes
from dimat.tasks.protocol import Task
from dimat.tasks.sums import ratio


@dataclass(frozen=True)
class Regression:
    r"""Targets are (n,) or (n, outputs) numbers, outputs (n, outputs); mean squared error.

    .. math:: R^2 = 1 - \frac{\sum_i (y_i - \hat y_i)^2}{\sum_i (y_i - \bar y)^2}

    in the mean over outputs; for targets of one value 1 if they are met, else 0, as scikit-learn
    has it. ``mse`` is the mean squared error, ``mae`` the mean absolute error, over samples and
    outputs. Targets far from the size of 1 are learned better in standard units, less ``mean`` and
    divided by ``scale``: models give those, and the loss is theirs, while the metrics are in the
    units of the targets.

    Args:
        mean: What is taken off all targets.
        scale: What they are divided by then, > 0.
    """

    mean: float = 0.0
    scale: float = 1.0
    metrics = (
        Metric("r2"),
        Metric("mse", higher_is_better=False),
        Metric("mae", higher_is_better=False),
    )
    has_classes = False

    def targets(self, given: NDArray[np.generic], where: str) -> Tensor:
        """(n, outputs) float32.

        Raises:
            DataError: If they are no finite numbers (n,) or (n, outputs), or there is none.
        """
        if given.ndim not in (1, 2) or given.dtype.kind not in "iuf":
            raise DataError(
                f"{where} is {given.dtype} of shape {given.shape}: targets of regression are "
                "numbers (n,), or (n, outputs)"
            )
        if not given.size:
            raise DataError(f"{where} is empty")
        own = as_floats(given, where)
        return torch.from_numpy(own).reshape(len(own), -1)

    def num_outputs(self, targets: Tensor) -> int:
        """The numbers of a sample."""
        return int(targets.shape[1])

    def output_shape(self, targets: Tensor, num_outputs: int) -> tuple[int, ...]:
        """(n, outputs)."""
        return len(targets), num_outputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error in standard units."""
        return functional.mse_loss(outputs, (targets - self.mean) / self.scale)

    def totals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """By output: samples, sums of targets, of their squares, of squared and absolute errors."""
        y = targets.double()
        error = outputs.double() * self.scale + self.mean - y
        sums = (y.sum(0), y.square().sum(0), error.square().sum(0), error.abs().sum(0))
        return torch.stack([torch.full_like(sums[0], len(y)), *sums]).flatten()

    def measure(self, totals: Tensor) -> Mapping[str, float]:
        """R², and mean errors; the loss is in standard units."""
        samples, y, y_squared, squared, absolute = totals.reshape(5, -1)
        n = float(samples.sum())
        spread = (y_squared - y.square() / samples.clamp_min(1)).clamp_min(0)
        # Where all targets are one number, what is left of their squares is rounding.
        flat = spread <= 1e-12 * y_squared
        each = torch.where(flat, (squared == 0).double(), 1 - squared / spread)
        mse = ratio(float(squared.sum()), n)
        return {
            "loss": mse / self.scale**2,
            "r2": float(each.mean()) if n else float("nan"),
            "mse": mse,
            "mae": ratio(float(absolute.sum()), n),
        }

    def pooled(self, outputs: Sequence[Tensor]) -> Tensor:
        """The mean."""
        return torch.stack(list(outputs)).mean(0)

    def predictions(self, outputs: Tensor) -> Tensor:
        """(n, outputs); all numbers of a sample, where outputs have further axes."""
        check_axes(outputs, (2, 3, 4, 5), "has (n, outputs)")
        return outputs.flatten(1)

    def information_root(self, predictions: Tensor, directions: Tensor) -> Tensor:
        """That of numbers with independent normal errors of variance 1: the identity."""
        return directions


def scaled(task: Task, mean: float, scale: float) -> Task:
    """A task whose targets are learned in units of their own, if it is regression; else itself.

    Args:
        task: The task.
        mean: What is taken off the targets.
        scale: What they are divided by then.
    """
    return replace(task, mean=mean, scale=scale) if isinstance(task, Regression) else task
