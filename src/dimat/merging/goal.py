"""What a layer of the merged network should put out: the weighted mean of its parents' outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dimat.merging.layer import Layer
from dimat.merging.lockstep import Run
from dimat.merging.sites import Site

LEAST_ROWS = 10_000  # of a layer, if there are as many


@dataclass(frozen=True)
class Goal:
    """The target of one layer, on all batches.

    Args:
        site: The layer.
        parents: Their runs, up to the end of the site.
        ours: The merged network's run, up to the operator.
        weights: Of the parents.
    """

    site: Site
    parents: Sequence[Run]
    ours: Run
    weights: Sequence[float]

    def whole(self) -> list[Tensor]:
        """The targets themselves, batch by batch."""
        return [self._target(b) for b in range(self.ours.count)]

    def rows(self, layer: Layer, quota: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The layer's inputs and targets at random samples and places, batch by batch.

        Args:
            layer: The layer's shape.
            quota: How many rows in all, if there are as many; evenly over the batches.

        Yields:
            (rows, groups, inputs) and (rows, groups, outputs).
        """
        ends = self.parents[0].value(self.site.end)
        sizes = [layer.num_rows(end) for end in ends]
        share = min(1.0, max(quota, LEAST_ROWS) / max(sum(sizes), 1))
        random = torch.Generator().manual_seed(0)
        for b, size in enumerate(sizes):
            picked = torch.randperm(size, generator=random)[: math.ceil(share * size)]
            rows = picked.sort().values.to(ends[b].device)
            z = layer.inputs(self.ours.value(self.site.input)[b], rows)
            yield z, self._target(b, layer, rows)

    def _target(self, b: int, layer: Layer | None = None, rows: Tensor | None = None) -> Tensor:
        def at(value: Tensor) -> Tensor:
            return value if layer is None else layer.outputs(value, rows)

        ends = [parent.value(self.site.end)[b] for parent in self.parents]
        target = average([at(end) for end in ends], self.weights)
        if self.site.other is None:
            return target
        return target - at(self.ours.value(self.site.other)[b].expand_as(ends[0]))


def average(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum of tensors."""
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total.add(value, alpha=weight)
    return total
