"""What a layer of the merged network should put out: the weighted mean of its parents' outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import Trace
from dimat.merging.layerwise.layer import Layer
from dimat.merging.layerwise.sites import Site

LEAST_ROWS = 10_000  # of a layer, if there are as many
ROWS_PER_SAMPLE = 16  # at most, on average: neighboring places tell little that is new


class LayerwiseRun:
    """The parents and the merged network on the same batches, layer by layer.

    A batch is run on to a layer only when that layer needs it. Early layers, whose images are
    large, have rows enough in few batches: so memory does not grow with the number of images
    there, and late layers, whose images are small, see all batches.

    Args:
        trace: The graph.
        parents: Aligned states.
        merged: The state that is being fitted.
        weights: Of the parents.
        batches: Inputs.
    """

    def __init__(
        self,
        trace: Trace,
        parents: Sequence[Mapping[str, Tensor]],
        merged: Mapping[str, Tensor],
        weights: Sequence[float],
        batches: Sequence[Any],
    ) -> None:
        self.weights = weights
        self.parents = [[PartialInterpreter(trace, state, x) for x in batches] for state in parents]
        self.ours = [PartialInterpreter(trace, merged, x) for x in batches]

    def at(self, site: Site, quota: int | None = None) -> LayerTarget:
        """Run the parents through a layer, and the merged network up to it.

        Args:
            site: The layer, after all those asked for before.
            quota: How many rows are wanted; as many batches are run; all of them if None.
        """
        used = 0
        rows = 0.0
        while used < len(self.ours) and (quota is None or rows < quota):
            for parent in self.parents:
                parent[used].advance(site.end)
            self.ours[used].advance(site.op, inclusive=False)
            rows += _worth(self.parents[0][used].value(site.end), site)
            used += 1
        parents = [parent[:used] for parent in self.parents]
        return LayerTarget(site, parents, self.ours[:used], self.weights)


def _worth(end: Tensor, site: Site) -> float:
    """Rows that a batch counts for: no more than so many a sample."""
    channels = end.shape[1] if site.spatial else end.shape[-1]
    return min(end.numel() / channels, ROWS_PER_SAMPLE * len(end))


@dataclass(frozen=True)
class LayerTarget:
    """The target of one layer, on some batches.

    Args:
        site: The layer.
        parents: Their runs, up to the end of the site, by parent and batch.
        ours: The merged network's runs, up to the operator.
        weights: Of the parents.
    """

    site: Site
    parents: Sequence[Sequence[PartialInterpreter]]
    ours: Sequence[PartialInterpreter]
    weights: Sequence[float]

    def whole(self) -> Iterator[tuple[PartialInterpreter, Tensor]]:
        """The merged network's run and the target, batch by batch."""
        for b, run in enumerate(self.ours):
            yield run, self._target(b)

    def rows(self, layer: Layer, quota: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The layer's inputs and targets at random samples and places, batch by batch.

        Args:
            layer: The layer's shape.
            quota: How many rows in all, if there are as many; evenly over the batches.

        Yields:
            (rows, groups, inputs) and (rows, groups, outputs).
        """
        sizes = [layer.num_rows(run.value(self.site.end)) for run in self.parents[0]]
        share = min(1.0, quota / max(sum(sizes), 1))
        random = torch.Generator().manual_seed(0)
        for b, (run, size) in enumerate(zip(self.ours, sizes, strict=True)):
            picked = torch.randperm(size, generator=random)[: math.ceil(share * size)]
            x = run.value(self.site.input)
            rows = picked.sort().values.to(x.device)
            yield layer.inputs(x, rows), self._target(b, layer, rows)

    def _target(self, b: int, layer: Layer | None = None, rows: Tensor | None = None) -> Tensor:
        def at(value: Tensor) -> Tensor:
            return value if layer is None else layer.outputs(value, rows)

        ends = [parent[b].value(self.site.end) for parent in self.parents]
        target = average([at(end) for end in ends], self.weights)
        if self.site.other is None:
            return target
        return target - at(self.ours[b].value(self.site.other).expand_as(ends[0]))


def average(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum of tensors."""
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total.add(value, alpha=weight)
    return total
