"""Sums of outer products of a layer's inputs, with as few multiplications as they take.

A matrix of outer products is symmetric, so half of it is enough. And the patches of a convolution
share their entries: in ``sum_p z_p z_p'`` of a 3x3 kernel every product of two positions of the
image comes back up to nine times. Where images are small, each is made once and added wherever
it belongs: for 512 channels on 4x4 pixels a seventh of the multiplications, on 2x2 a
twentieth, and the same sum but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.merging.layerwise.layer import Layer

_BLOCK = 128  # least side of a block of which the other triangle's twin is left out
_MOST_BLOCKS = 8  # along a side: 9 / 16 of the multiplications


def add_products(gram: Tensor, z: Tensor) -> None:
    """Add ``z.mT @ z`` to the upper triangle of Gram matrices; what is below is undefined.

    Args:
        gram: (groups, inputs, inputs), written to; :func:`mirror` makes it symmetric.
        z: (groups, rows, inputs).
    """
    for start, stop in _blocks(gram.shape[-1]):
        gram[:, start:stop, start:] += z[:, :, start:stop].mT @ z[:, :, start:]


def mirror(gram: Tensor) -> Tensor:
    """The same Gram matrices, their upper triangles copied below in place.

    Args:
        gram: (groups, inputs, inputs), written to.
    """
    for start, stop in _blocks(gram.shape[-1]):
        own = gram[:, start:stop, start:stop]
        own.copy_(own.triu() + own.triu(1).mT)
        gram[:, stop:, start:stop] = gram[:, start:stop, stop:].mT
    return gram


def _blocks(size: int) -> list[tuple[int, int]]:
    """Ranges that split a side."""
    step = max(1, -(-size // max(1, min(_MOST_BLOCKS, size // _BLOCK))))
    return [(start, min(start + step, size)) for start in range(0, size, step)]


@dataclass(frozen=True, eq=False)
class Patches:
    """The positions of an input that each patch of a convolution shows.

    Args:
        seen: (places, kernel) numbers of positions; -1 outside the image.
        last: (positions,) the last position that shares a patch with each one.
    """

    seen: NDArray[np.int64]
    last: NDArray[np.int64]

    @property
    def rows(self) -> float:
        """Rows of a sample for which :func:`add_products` takes as many multiplications."""
        positions = np.arange(len(self.last))
        pairs = int((self.last - positions + 1).clip(0).sum())
        return 2.0 * pairs / int(self.seen.shape[1]) ** 2

    @property
    def num_pairs(self) -> int:
        """Number of pairs of a kernel's entries that show something, over all places."""
        inside = (self.seen >= 0).sum(1)
        return int((inside * (inside + 1) // 2).sum())


@lru_cache(maxsize=64)
def patches_of(layer: Layer, sizes: tuple[int, ...]) -> Patches:
    """The patches of a convolution.

    Args:
        layer: Geometry of the layer.
        sizes: Spatial sizes of its input.
    """
    count, places = math.prod(sizes), math.prod(layer.places(sizes))
    at, shown = layer.positions(torch.arange(places), sizes)
    seen = at.where(shown, -1).numpy()
    last = np.full(count, -1, np.int64)
    inside = seen >= 0
    np.maximum.at(last, seen[inside], np.broadcast_to(seen.max(1)[:, None], seen.shape)[inside])
    return Patches(seen, last)


def pays(layer: Layer, values: Sequence[Tensor], rows: int) -> bool:
    """Whether :func:`patch_products` of all patches takes less than products of some rows.

    Args:
        layer: Geometry of the layer.
        values: Inputs of it, by batch.
        rows: Number of rows that would be multiplied otherwise.
    """
    if not layer.spatial:
        return False
    sizes = tuple(values[0].shape[2:])
    if math.prod((*layer.places(sizes), *layer.kernel)) > rows:
        return False  # large images: what follows would take longer than it saves
    patches = patches_of(layer, sizes)
    # To add a block takes about as long as to multiply one row.
    means = 2 * math.prod(layer.places(sizes))  # in float64
    return sum(map(len, values)) * patches.rows + patches.num_pairs + means < rows


def patch_products(layer: Layer, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums of outer products of all patches, and of the patches, in float64.

    What every position deviates from its mean is multiplied in the inputs' precision, a batch at a
    time, and added in float64, as the products of means are. So an input that hardly varies at its
    position keeps its digits, however large others of its channel are: with one mean a channel the
    rounding of these was as large as its covariances, and a regression on a layer of few images
    came out otherwise (6 instead of 0.01 of a weight).

    Args:
        layer: Geometry of a convolution.
        values: Inputs of it, by batch.

    Returns:
        (groups, inputs, inputs) and (groups, inputs), as of :meth:`Layer.inputs`.
    """
    patches = patches_of(layer, tuple(values[0].shape[2:]))
    xs = [_by_position(layer, x) for x in values]  # (groups, samples, positions, channels)
    count = sum(x.shape[1] for x in xs)
    means = torch.stack([x.sum(1, dtype=torch.float64) for x in xs]).sum(0).div_(max(count, 1))
    xs = [x - means[:, None].to(x.dtype) for x in xs]
    groups, _, _, channels = xs[0].shape
    kernel = patches.seen.shape[1]
    zeros = partial(torch.zeros, dtype=torch.float64, device=xs[0].device)
    blocks = zeros(kernel, kernel, groups, channels, channels)
    for q, r, where in _pairs(patches):
        products = zeros(groups, channels, (r - q) * channels)
        for x in xs:
            products += x[:, :, q].mT @ x[:, :, q:r].flatten(2)
        own = products.reshape(groups, channels, r - q, channels)
        for other, a, b in where:
            blocks[a, b] += own[:, :, other - q]
    for a in range(kernel):
        for b in range(a):
            blocks[a, b] = blocks[b, a].mT
    whole = blocks.permute(2, 3, 0, 4, 1).reshape(groups, channels * kernel, channels * kernel)
    seen = torch.from_numpy(patches.seen).to(means.device)
    shown = means[:, seen.clamp_min(0)] * (seen >= 0)[:, :, None]  # outside all is 0
    shown = shown.transpose(2, 3).flatten(2)  # (groups, places, inputs)
    return whole.baddbmm_(shown.mT, shown, alpha=count), count * shown.sum(1)


def _by_position(layer: Layer, x: Tensor) -> Tensor:
    """(groups, samples, positions, channels of a group) of an input."""
    last = x.flatten(2).transpose(1, 2)
    split = last.reshape(*last.shape[:2], layer.groups, x.shape[1] // layer.groups)
    return split.permute(2, 0, 1, 3).contiguous()


def _pairs(patches: Patches) -> list[tuple[int, int, list[tuple[int, int, int]]]]:
    """For each position q the end r of those to multiply it with, and where products belong.

    That is (other position, a, b) for entries a and b of the kernel, positions in order: within a
    patch they come in the order of the kernel, so that always a <= b.
    """
    found: list[list[tuple[int, int, int]]] = [[] for _ in patches.last]
    for row in patches.seen.tolist():
        for a, q in enumerate(row):
            if q >= 0:
                found[q] += [(row[b], a, b) for b in range(a, len(row)) if row[b] >= 0]
    ends = (patches.last + 1).tolist()
    return [(q, end, own) for q, (end, own) in enumerate(zip(ends, found, strict=True)) if own]
