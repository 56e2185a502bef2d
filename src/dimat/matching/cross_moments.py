"""Streaming moments of two models' activations, from which units are scored."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# The comparison of two units: their correlation (Pearson), their covariance, or the cosine of their
# activations, means left in.
Statistic = Literal["correlation", "covariance", "cosine"]


class CrossMoments:
    r"""Cross moments of our units with theirs, accumulated batch by batch.

    Only the block ours × theirs and the sums that scale it are kept. Values are shifted by the
    first batch's mean before they are multiplied: in float32, :math:`E[xy] - \mu_x\mu_y` loses all
    digits when the mean is large against the deviation. Batches are multiplied in float32 and
    accumulated in float64.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift: tuple[Tensor, Tensor] | None = None
        self._sums: list[Tensor] = []

    def update(self, ours: Tensor, theirs: Tensor) -> None:
        """Add the observations of one batch.

        Args:
            ours: (observations, our units).
            theirs: (observations, their units), of the same inputs in the same order.
        """
        x, y = ours.float(), theirs.float()
        if self._shift is None:
            self._shift = x.mean(0), y.mean(0)
        x, y = x - self._shift[0], y - self._shift[1]
        parts = [x.T @ y, x.sum(0), y.sum(0), x.square().sum(0), y.square().sum(0)]
        if not self._sums:
            self._sums = [torch.zeros_like(part, dtype=torch.float64) for part in parts]
        for own, part in zip(self._sums, parts, strict=True):
            own += part
        self.count += x.shape[0]

    def add(self, other: CrossMoments) -> None:
        """Add the observations of other moments, of the same two models on other inputs.

        Args:
            other: Not changed.
        """
        if not other.count:
            return
        if self._shift is None:
            self._shift = other._shift
        moved = other._shifted_to(self._shift)
        self._sums = (
            [a + b for a, b in zip(self._sums, moved, strict=True)] if self._sums else moved
        )
        self.count += other.count

    def _shifted_to(self, shift: tuple[Tensor, Tensor] | None) -> list[Tensor]:
        """The sums as they would be if values were shifted by other means."""
        assert shift is not None
        assert self._shift is not None
        n = self.count
        cross, sum_x, sum_y, square_x, square_y = self._sums
        dx = self._shift[0].double() - shift[0].double()
        dy = self._shift[1].double() - shift[1].double()
        cross = cross + torch.outer(dx, sum_y) + torch.outer(sum_x, dy) + n * torch.outer(dx, dy)
        square_x = square_x + 2 * dx * sum_x + n * dx.square()
        square_y = square_y + 2 * dy * sum_y + n * dy.square()
        return [cross, sum_x + n * dx, sum_y + n * dy, square_x, square_y]

    def scores(self, statistic: Statistic) -> Tensor:
        """(our units, their units) scores in float64; 0 for units that do not vary.

        Args:
            statistic: The comparison.
        """
        if statistic == "cosine":
            return self._cosine()
        alive = torch.outer(*self._alive())
        covariance, (variance_x, variance_y) = self._covariance(), self._variances()
        if statistic == "covariance":
            return torch.where(alive, covariance, 0.0)
        scale = (variance_x[:, None] * variance_y).clamp_min(1e-300).rsqrt()
        return torch.where(alive, covariance * scale, 0.0).clamp(-1.0, 1.0)

    def closeness(self) -> Tensor:
        """(our units, their units) nearness of the values of constant units, in float64.

        In [0, 1]: 1 where two constants are equal; 0 where one of both units varies.
        """
        x, y = self._means()
        still_x, still_y = (~alive for alive in self._alive())
        largest = torch.cat([x[still_x], y[still_y], x.new_zeros(1)]).abs().max()
        apart = (x[:, None] - y).abs() / (2 * largest).clamp_min(1e-300)
        return torch.where(torch.outer(still_x, still_y), 1 - apart, 0.0)

    def _covariance(self) -> Tensor:
        cross, sum_x, sum_y, *_ = self._sums
        return cross / self.count - torch.outer(sum_x / self.count, sum_y / self.count)

    def _variances(self) -> tuple[Tensor, Tensor]:
        _, sum_x, sum_y, square_x, square_y = self._sums
        n = self.count
        x, y = (
            (square / n - (total / n).square()).clamp_min(0)
            for square, total in ((square_x, sum_x), (square_y, sum_y))
        )
        return x, y

    def _means(self) -> tuple[Tensor, Tensor]:
        assert self._shift is not None
        sums = self._sums[1:3]
        x, y = (s / self.count + v.double() for s, v in zip(sums, self._shift, strict=True))
        return x, y

    def _alive(self) -> tuple[Tensor, Tensor]:
        x, y = (_alive(*own) for own in zip(self._variances(), self._means(), strict=True))
        return x, y

    def _cosine(self) -> Tensor:
        assert self._shift is not None
        zero = torch.zeros_like(self._shift[0]), torch.zeros_like(self._shift[1])
        cross, _, _, square_x, square_y = self._shifted_to(zero)
        alive = torch.outer(*self._alive())
        scale = (square_x[:, None] * square_y).clamp_min(1e-300).rsqrt()
        return torch.where(alive, cross * scale, 0.0).clamp(-1.0, 1.0)

    def tensors(self) -> dict[str, Tensor]:
        """The moments as tensors to be sent: float32, the count as one more entry."""
        assert self._shift is not None
        names = ("cross", "sum_x", "sum_y", "square_x", "square_y")
        sums = {name: value.float() for name, value in zip(names, self._sums, strict=True)}
        count = torch.tensor([float(self.count)], device=self._shift[0].device)
        return {**sums, "shift_x": self._shift[0], "shift_y": self._shift[1], "count": count}

    @staticmethod
    def from_tensors(parts: dict[str, Tensor], *, swapped: bool = False) -> CrossMoments:
        """The moments that :meth:`tensors` gave.

        Args:
            parts: The tensors.
            swapped: Whether the other end of the edge sent them, whose "ours" is our "theirs".
        """
        x, y = ("y", "x") if swapped else ("x", "y")
        moments = CrossMoments()
        moments.count = round(float(parts["count"]))
        moments._shift = parts[f"shift_{x}"], parts[f"shift_{y}"]
        cross = parts["cross"].T if swapped else parts["cross"]
        own = [cross, *(parts[f"{kind}_{end}"] for kind in ("sum", "square") for end in (x, y))]
        moments._sums = [value.double() for value in own]
        return moments


def _alive(variance: Tensor, mean: Tensor) -> Tensor:
    """Mask of the units that vary by more than float32 rounds: others correlate with nothing."""
    least = (1e-12 * variance.max().clamp_min(1e-30)).maximum(1e-12 * mean.square())
    return variance > least
