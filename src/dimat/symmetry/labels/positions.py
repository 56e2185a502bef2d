"""Positions of the entries of a labeled tensor when its units move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.symmetry.labels.units import Ints, Label, Labels, Special

# For every axis the index to read from, in the frame of the tensor; None where nothing moves.
Sources = tuple[Ints | None, ...]
Memo = dict[bytes, Ints | None]
_BLOCK_BYTES = 2**20


def sources(labels: Labels, moves: Ints, memo: Memo | None = None) -> Sources:
    """For every axis the index to read from: ``new[i, j] = old[s0[i, j], s1[i, j]]``.

    Args:
        labels: Unit numbers of each axis.
        moves: For every unit the unit that takes its place.
        memo: Sources already found for the same ``moves``, which are added to: many axes carry
            the same units.

    Raises:
        StructureError: If an axis does not map to itself.
    """
    memo = {} if memo is None else memo
    if not any(_depends(labels, i) for i in range(len(labels))):
        return tuple(_remembered(label, i, {}, moves, memo) for i, label in enumerate(labels))
    found: dict[int, Ints | None] = {}
    while len(found) < len(labels):
        ready = [
            i for i in range(len(labels)) if i not in found and _depends(labels, i) <= set(found)
        ]
        if not ready:
            raise StructureError("axes of a tensor depend on each other in a circle")
        for i in ready:
            found[i] = _remembered(labels[i], i, found, moves, memo)
    return tuple(found[i] for i in range(len(labels)))


def _depends(labels: Labels, axis: int) -> set[int]:
    """The other axes along which the units of one axis differ."""
    label = labels[axis]
    if isinstance(label, Special) or label.size == label.shape[axis]:
        return set()
    return {i for i, n in enumerate(label.shape) if n > 1 and i != axis}


def _remembered(
    label: Label, axis: int, found: dict[int, Ints | None], moves: Ints, memo: Memo
) -> Ints | None:
    """The source of an axis, solved once for all axes that carry the same units alone."""
    if isinstance(label, Special) or label.size != label.shape[axis]:
        return _source(label, axis, found, moves)
    key = label.tobytes()
    if key not in memo:
        memo[key] = _source(label.ravel(), 0, {}, moves)
    known = memo[key]
    return None if known is None else known.reshape(label.shape)


def _source(label: Label, axis: int, found: dict[int, Ints | None], moves: Ints) -> Ints | None:
    """The source of one axis, once those of the axes that it depends on are found; None: itself."""
    if isinstance(label, Special):
        return None
    outer = [(i, found[i]) for i in range(label.ndim) if i != axis and label.shape[i] > 1]
    moved = [(i, s) for i, s in outer if s is not None]
    target = moves[label]
    if not moved and np.array_equal(target, label):
        return None
    frame = np.broadcast_shapes(label.shape, *(s.shape for _, s in moved))
    label, target = np.broadcast_to(label, frame), np.broadcast_to(target, frame)
    rows, wanted = np.moveaxis(label, axis, -1), np.moveaxis(target, axis, -1)
    n = frame[axis]
    row_shape = rows.shape[:-1]
    row = np.arange(int(np.prod(row_shape))).reshape(row_shape)
    coordinates: list[Ints] = list(np.indices(row_shape)) if row_shape else []
    for i, source in moved:
        k = i if i < axis else i - 1
        coordinates[k] = np.broadcast_to(np.moveaxis(source, axis, -1)[..., 0], row_shape)
    from_row = row[tuple(coordinates)] if row_shape else row
    index = _lookup(rows.reshape(-1, n), wanted.reshape(-1, n), from_row.ravel())
    return np.moveaxis(index.reshape(rows.shape), -1, axis)


def _lookup(rows: Ints, wanted: Ints, from_row: Ints) -> Ints:
    """``index`` such that ``rows[from_row[r], index[r, c]] == wanted[r, c]`` for all r and c."""
    base = int(max(rows.max(initial=0), wanted.max(initial=0))) + 1
    keys = (rows + base * np.arange(len(rows))[:, None]).ravel()
    queries = (wanted + base * from_row[:, None]).ravel()
    order = np.argsort(keys, kind="stable")
    found = order[np.minimum(np.searchsorted(keys[order], queries), len(order) - 1)]
    if not np.array_equal(keys[found], queries):
        raise StructureError("an axis does not map to itself")
    n = rows.shape[1]
    index = (found % n).reshape(wanted.shape)
    stays = (from_row == np.arange(len(rows)))[:, None] & (wanted == rows)
    return np.where(stays, np.arange(n)[None, :], index)


def orders(labels: Sequence[Ints], moves: Ints) -> list[Tensor | None]:
    """For each of some axes that move alone the index to read from; None where nothing moves.

    As :func:`sources` gives them, but by one search for all axes: as many small ones took longer
    than to move the numbers of a small network.

    Args:
        labels: For each axis (size,) unit numbers, not empty.
        moves: For every unit the unit that takes its place.

    Raises:
        StructureError: If an axis does not map to itself.
    """
    if not labels:
        return []
    sizes = [len(label) for label in labels]
    starts = np.cumsum([0, *sizes[:-1]])
    units = np.concatenate(labels)
    target = moves[units]
    start = np.repeat(starts, sizes)
    axis = len(moves) * np.repeat(np.arange(len(labels)), sizes)
    keys, wanted = units + axis, target + axis
    order = np.argsort(keys, kind="stable")
    found = order[np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)]
    if not np.array_equal(keys[found], wanted):
        raise StructureError("an axis does not map to itself")
    moved = target != units
    index = np.where(moved, found, np.arange(len(units))) - start
    own = torch.split(torch.from_numpy(index), sizes)
    moving = np.logical_or.reduceat(moved, starts).tolist()
    return [x if any_ else None for x, any_ in zip(own, moving, strict=True)]


def take(value: Tensor, source: Sources) -> Tensor:
    """A copy of a tensor with its entries moved.

    Args:
        value: Not changed.
        source: For every axis the index to read from, as :func:`sources` gives it.
    """
    moved = [(i, s) for i, s in enumerate(source) if s is not None]
    if not moved:
        return value.clone()
    if all(s.size == s.shape[i] for i, s in moved):
        return along_axes(value, [(i, torch.from_numpy(s.ravel())) for i, s in moved])
    index = []
    for i, n in enumerate(value.shape):
        shape = [n if k == i else 1 for k in range(value.dim())]
        own = source[i]
        moving = torch.arange(n).reshape(shape) if own is None else torch.from_numpy(own)
        index.append(moving.to(value.device))
    return value[tuple(index)]


def along_axes(value: Tensor, moved: Sequence[tuple[int, Tensor]]) -> Tensor:
    """A copy of a tensor whose axes are moved one after the other.

    Large ones in blocks of rows: what lies between the axes then stays in the processor's cache.

    Args:
        value: Not changed.
        moved: For one axis at least its number, and the (size,) index to read from.
    """
    moved = [(i, index.to(value.device)) for i, index in moved]
    if len(moved) == 1:
        return _select(value, *moved[0])
    (first, rows), *rest = moved
    large = value.element_size() * value.numel() > 2 * _BLOCK_BYTES
    blocked = first == 0 and len(rest) == 1 and large and value.device.type == "cpu"
    if not blocked or value.requires_grad or not value.is_contiguous():
        for i, index in moved:
            value = _select(value, i, index)
        return value
    axis, columns = rest[0]
    moved_value = torch.empty_like(value)
    size = max(1, _BLOCK_BYTES * len(value) // (value.element_size() * value.numel()))
    between = value.new_empty((size, *value.shape[1:]))
    for block, out in zip(torch.split(rows, size), torch.split(moved_value, size), strict=True):
        own = torch.index_select(value, 0, block, out=between[: len(block)])
        _select(own, axis, columns, out)
    return moved_value


def _select(value: Tensor, axis: int, index: Tensor, out: Tensor | None = None) -> Tensor:
    """``value.index_select(axis, index)``, written to ``out`` if that is given.

    Single numbers of float64, as a proof moves them, ``gather`` takes in less than half of the time
    of ``index_select`` (1.4 ns for 3.4 with rows, 3072×768); those of float32 it does not.
    """
    if axis == value.dim() - 1 and value.dtype is torch.float64:
        every = index.expand(*value.shape[:-1], len(index))
        return torch.gather(value, axis, every, out=out)
    return torch.index_select(value, axis, index, out=out)


def moving_share(labels: Labels, shape: Sequence[int], movable: Ints) -> float:
    """Number of a tensor's entries that some permutation moves.

    Args:
        labels: Labels of the tensor's axes.
        shape: Shape of the tensor.
        movable: 1 for every unit that some permutation moves.
    """
    still = np.ones((1,) * len(shape), np.bool_)
    for label in labels:
        if not isinstance(label, Special):
            still = still & ~movable[label].astype(np.bool_)
    moving = ~np.broadcast_to(still, tuple(shape)) if still.size else still
    return float(moving.sum())
