"""Streaming cross-correlation: only the block ours × theirs and two variances are kept."""

from __future__ import annotations

import torch
from torch import Tensor


class CrossMoments:
    r"""Pearson correlation between our units and theirs, accumulated batch by batch.

    Values are shifted by the first batch's mean before they are multiplied: in float32,
    :math:`E[xy] - \mu_x\mu_y` loses all digits when the mean is large against the deviation.
    Batches are multiplied in float32 and accumulated in float64.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift: tuple[Tensor, Tensor] | None = None
        self._sums: list[Tensor] = []

    def update(self, ours: Tensor, theirs: Tensor) -> None:
        """Add observations.

        Args:
            ours: (observations, our units).
            theirs: (observations, their units), of the same inputs in the same order.
        """
        x, y = ours.float(), theirs.float()
        if self._shift is None:
            self._shift = x.mean(0), y.mean(0)
        x, y = x - self._shift[0], y - self._shift[1]
        parts = [x.T @ y, x.sum(0), y.sum(0), x.square().sum(0), y.square().sum(0)]
        wide = [part.double() for part in parts]
        self._sums = [a + b for a, b in zip(self._sums, wide, strict=True)] if self._sums else wide
        self.count += x.shape[0]

    def correlation(self) -> Tensor:
        """(our units, their units) float64 in [-1, 1]; 0 for units that do not vary."""
        cross, sum_x, sum_y, square_x, square_y = self._sums
        n = self.count
        covariance = cross / n - torch.outer(sum_x / n, sum_y / n)
        variance_x = (square_x / n - (sum_x / n).square()).clamp_min(0)
        variance_y = (square_y / n - (sum_y / n).square()).clamp_min(0)
        scale = torch.outer(_inverse_deviation(variance_x), _inverse_deviation(variance_y))
        return (covariance * scale).clamp(-1.0, 1.0)


def _inverse_deviation(variance: Tensor) -> Tensor:
    """1/σ, and 0 for dead units: their correlation with anything is 0."""
    alive = variance > 1e-12 * variance.max().clamp_min(1e-30)
    return torch.where(alive, variance.clamp_min(1e-300).rsqrt(), 0.0)
