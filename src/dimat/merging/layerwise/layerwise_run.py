"""Targets of the merged network's layers: the weighted means of the parents' outputs."""

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

LEAST_ROWS = 10_000  # rows that a layer is fitted on, if there are as many
ROWS_PER_SAMPLE = 16  # most that a sample counts for: neighboring places tell little that is new


class LayerwiseRun:
    """The runs of the parents and of the merged network on the same batches, layer by layer.

    A batch is run on to a layer only when that layer needs it. Early layers, whose images are
    large, have rows enough in few batches: so memory does not grow with the number of images
    there, and late layers, whose images are small, see all batches.

    Args:
        trace: The graph.
        parents: The aligned states of the parents.
        merged: The state that is being fitted.
        weights: Weight of each parent.
        batches: The inputs.
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
        """The target of a layer: the parents run through it, and the merged network up to it.

        Args:
            site: The layer, which comes after all those of earlier calls.
            quota: Wanted number of rows, for which as many batches are run; None: all batches.
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
    """Number of rows that a batch counts for, at most :data:`ROWS_PER_SAMPLE` a sample."""
    channels = end.shape[1] if site.spatial else end.shape[-1]
    return min(end.numel() / channels, ROWS_PER_SAMPLE * len(end))


@dataclass(frozen=True)
class LayerTarget:
    """The target of one layer on some batches.

    Args:
        site: The layer.
        parents: Runs of the parents up to the end of the site, by parent and batch.
        ours: Runs of the merged network up to the operator, by batch.
        weights: Weight of each parent.
    """

    site: Site
    parents: Sequence[Sequence[PartialInterpreter]]
    ours: Sequence[PartialInterpreter]
    weights: Sequence[float]

    @property
    def inputs(self) -> list[Tensor]:
        """Inputs of the layer in the merged network, by batch."""
        return [run.value(self.site.input) for run in self.ours]

    def num_rows(self, layer: Layer) -> int:
        """Number of rows of all batches.

        Args:
            layer: Geometry of the layer.
        """
        return sum(layer.num_rows(run.value(self.site.end)) for run in self.parents[0])

    def whole(self) -> Iterator[tuple[PartialInterpreter, Tensor]]:
        """The run of the merged network and the target, batch by batch."""
        for b, run in enumerate(self.ours):
            yield run, self._target(b)

    def rows(self, layer: Layer, quota: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs and targets of the layer at random samples and places, batch by batch.

        Args:
            layer: Geometry of the layer.
            quota: Number of rows in all, if there are as many, evenly over the batches.

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
    """The weighted sum of some tensors.

    Args:
        values: Tensors of one shape.
        weights: One weight per tensor.
    """
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total.add(value, alpha=weight)
    return total


def entrywise(
    mean: Tensor, entries: Sequence[Tensor], says: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """The average in which each entry counts as much as its parent says of it, in float64.

    Args:
        mean: The average by the weights alone, of which equal entries keep every bit.
        entries: The parents' entries.
        says: How much each parent says of its entries, > 0, broadcast to them.
        weights: Weights of the parents.
    """
    mean = mean.double()
    parts = [(own - mean) * say for own, say in zip(entries, says, strict=True)]
    return mean + average(parts, weights) / average(says, weights)
