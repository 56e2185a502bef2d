"""Operators that rearrange: reshape, permute, slice, concatenate, pad."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dimat.graph.trace import operator_name
from dimat.symmetry.labels.operator_call import Call, Operand, Result, indices, tensors_in
from dimat.symmetry.labels.units import ANY, FIXED, Ints, Label, Labels, Special
from dimat.symmetry.rules.registry import rule


def relabel_axes(labels: Labels, order: Sequence[int]) -> Labels:
    """Labels after ``permute(order)``."""

    def move(label: Label) -> Label:
        return label if isinstance(label, Special) else np.transpose(label, order)

    return tuple(move(labels[i]) for i in order)


@rule("aten.permute")
def permute(call: Call) -> Labels:
    """Axes change places."""
    x = call["self"]
    return relabel_axes(x.labels, [int(i) % x.rank for i in call["dims"]])


@rule("aten.transpose", "aten.swapdims", "aten.swapaxes")
def transpose(call: Call) -> Labels:
    """Two axes change places."""
    x = call["self"]
    order = list(range(x.rank))
    word = "axis" if "axis0" in call.arguments else "dim"
    i, j = call.axis(f"{word}0", x.rank), call.axis(f"{word}1", x.rank)
    order[i], order[j] = j, i
    return relabel_axes(x.labels, order)


@rule("aten.movedim", "aten.moveaxis")
def movedim(call: Call) -> Labels:
    """Some axes take given places, the others the rest in their order."""
    x = call["self"]
    sources, places = (np.atleast_1d(call[n]) % x.rank for n in ("source", "destination"))
    order = [int(i) for i in range(x.rank) if i not in sources]
    for place, source in sorted(zip(places.tolist(), sources.tolist(), strict=True)):
        order.insert(place, source)
    return relabel_axes(x.labels, order)


@rule("aten.mT", "aten.mH", "aten.matrix_H", "aten.adjoint")
def last_two(call: Call) -> Labels:
    """The last two axes change places."""
    x = call["self"]
    return relabel_axes(x.labels, [*range(x.rank - 2), x.rank - 1, x.rank - 2])


@rule("aten.t", "aten.numpy_T")
def matrix_transpose(call: Call) -> Labels:
    """All axes in reverse."""
    x = call["self"]
    return relabel_axes(x.labels, list(reversed(range(x.rank))))


@rule("aten.unsqueeze", "aten.squeeze")
def resize_ones(call: Call) -> Labels:
    """Axes of size 1 come and go."""
    return reshape_labels(call, call[_input(call)], call.shape)


@rule("aten.atleast_1d", "aten.atleast_2d", "aten.atleast_3d")
def atleast(call: Call) -> Result:
    """Axes of size 1 come, to one or to each of several."""
    pairs = zip(call.tensors(), tensors_in(call.result), strict=True)
    labels = tuple(reshape_labels(call, x, tuple(value.shape)) for x, value in pairs)
    return labels if "tensors" in call.arguments else labels[0]


def _input(call: Call) -> str:
    return "self" if "self" in call.arguments else "input"


@rule(
    "aten.view",
    "aten.reshape",
    "aten._unsafe_view",
    "aten.flatten",
    "aten.unflatten",
    "aten.ravel",
    "aten.view_as",
    "aten.reshape_as",
)
def view(call: Call) -> Labels:
    """Split into common factors, then merged: inner units belong to outer ones."""
    return reshape_labels(call, call[_input(call)], call.shape)


def reshape_labels(call: Call, x: Operand, shape: Sequence[int]) -> Labels:
    """Split every axis into factors that both shapes are products of, then merge those."""
    old = [n for n in x.shape if n != 1]
    labels = drop_ones(x.labels, x.shape)
    new = [n for n in shape if n != 1]
    factors = common_factors(old, new)
    if factors is None:
        for axis, label in enumerate(labels):
            why = f"reshape {tuple(x.shape)} to {tuple(shape)} mixes it"
            call.units.pin(label, why, axis)
        return (FIXED,) * len(shape)
    sizes = list(old)
    for axis in range(len(old) - 1, -1, -1):
        parts = factors[0][axis]
        if len(parts) > 1:
            labels = call.units.split(labels, sizes, axis, parts)
            sizes[axis : axis + 1] = parts
    for axis, parts in enumerate(factors[1]):
        if len(parts) > 1:
            labels = call.units.merge(labels, sizes, axis, axis + len(parts))
            sizes[axis : axis + len(parts)] = [int(np.prod(parts))]
    return insert_ones(labels, shape)


def common_factors(
    old: Sequence[int], new: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]] | None:
    """The coarsest factors that make up both shapes, per axis of each; None if there are none.

    >>> common_factors([5, 2, 16], [5, 8, 4])
    ([[5], [2], [4, 4]], [[5], [2, 4], [4]])
    >>> common_factors([6], [4]) is None
    True
    """
    ends = [np.cumprod(np.asarray([1, *reversed(s)], dtype=np.int64)).tolist() for s in (old, new)]
    if ends[0][-1] != ends[1][-1]:
        return None
    cuts = sorted(set(ends[0]) | set(ends[1]))
    if any(b % a for a, b in pairwise(cuts)):
        return None

    def parts(own: list[int]) -> list[list[int]]:
        result = []
        for low, high in pairwise(own):
            inside = [c for c in cuts if low <= c <= high]
            result.append([b // a for a, b in pairwise(inside)][::-1])
        return result[::-1]

    return parts(ends[0]), parts(ends[1])


def drop_ones(labels: Labels, shape: Sequence[int]) -> Labels:
    """Labels without the axes of size 1."""
    kept = [i for i, n in enumerate(shape) if n != 1]

    def drop(label: Label) -> Label:
        if isinstance(label, Special):
            return label
        return label.reshape([label.shape[i] for i in kept])

    return tuple(drop(labels[i]) for i in kept)


def insert_ones(labels: Labels, shape: Sequence[int]) -> Labels:
    """Labels with the axes of size 1 of ``shape`` put in."""
    kept = [i for i, n in enumerate(shape) if n != 1]
    result: list[Label] = [FIXED] * len(shape)
    for i, label in zip(kept, labels, strict=True):
        if isinstance(label, Special):
            result[i] = label
        else:
            sizes = [1] * len(shape)
            for k, n in zip(kept, label.shape, strict=True):
                sizes[k] = n
            result[i] = label.reshape(sizes)
    return tuple(result)


@rule("aten.expand", "aten.expand_copy", "aten.expand_as", "aten.broadcast_to")
def expand(call: Call) -> Labels:
    """New axes, and those of size 1 that grow, are constant."""
    return _expanded(call, call["self"])


@rule("aten.copy")
def copy(call: Call) -> Labels:
    """Of what is overwritten only the shape is read."""
    return _expanded(call, call["src"])


def _expanded(call: Call, x: Operand) -> Labels:
    shape = call.shape
    lead = len(shape) - x.rank
    letters = list(range(len(shape)))
    labels = list(call.einsum([(x, letters[lead:])], letters))
    for i, n in enumerate(shape):
        if n > 1 and (i < lead or x.shape[i - lead] == 1):
            labels[i] = ANY
    return tuple(labels)


@rule("aten.repeat", "aten.tile")
def repeat(call: Call) -> Labels:
    """Tiling is an outer axis that is constant, merged with the axis."""
    x = call["self"]
    shape = call.shape
    lead = len(shape) - x.rank
    padded = (1,) * lead + x.shape
    letters = list(range(len(shape)))
    labels: Labels = call.einsum([(x, letters[lead:])], letters)
    sizes = list(padded)
    for i in reversed(range(len(shape))):
        times = shape[i] // padded[i]
        if times > 1:
            labels = _insert_axis(labels, i)
            sizes.insert(i, times)
            labels = call.units.merge(labels, sizes, i, i + 2)
            sizes[i : i + 2] = [times * padded[i]]
    return labels


def _insert_axis(labels: Labels, axis: int) -> Labels:
    """Labels with a new constant axis before ``axis``."""

    def grow(label: Label) -> Label:
        return label if isinstance(label, Special) else np.expand_dims(label, axis)

    grown = [grow(x) for x in labels]
    return (*grown[:axis], ANY, *grown[axis:])


@rule("aten.repeat_interleave")
def repeat_interleave(call: Call) -> Labels:
    """Each index several times in a row: a constant inner axis, merged with the axis."""
    x = call["self"]
    if not isinstance(call.get("repeats"), int) or call.get("dim") is None:
        call.pin(x, range(x.rank), "repeated by a tensor")
        return (FIXED,) * len(call.shape)
    axis = call.axis("dim", x.rank)
    labels = _insert_axis(x.labels, axis + 1)
    sizes = [*x.shape[: axis + 1], int(call["repeats"]), *x.shape[axis + 1 :]]
    return call.units.merge(labels, sizes, axis, axis + 2)


@rule("aten.slice")
def slice_(call: Call) -> Labels:
    """The units picked belong to new ones."""
    x = call["self"]
    axis = call.axis("dim", x.rank)
    return call.units.take(x.labels, axis, _sliced(call, x.shape[axis]))


def _sliced(call: Call, size: int) -> Ints:
    """The indices that a slice picks of an axis."""
    start, stop, step = call.get("start"), call.get("end"), int(call.get("step") or 1)
    return indices(*slice(start, stop, step).indices(size))


@rule("aten.narrow")
def narrow(call: Call) -> Labels:
    """A slice by start and length."""
    x = call["self"]
    start = int(call["start"])
    picked = indices(start, start + int(call["length"]))
    return call.units.take(x.labels, call.axis("dim", x.rank), picked)


@rule("aten.select")
def select(call: Call) -> Labels:
    """A slice of one, whose axis then vanishes."""
    x = call["self"]
    axis = call.axis("dim", x.rank)
    return _pick(call, x, axis, int(call["index"]) % x.shape[axis])


def _pick(call: Call, x: Operand, axis: int, index: int) -> Labels:
    labels = call.units.take(x.labels, axis, np.asarray([index]))
    rest = [i for i in range(x.rank) if i != axis]

    def drop(label: Label) -> Label:
        return label if isinstance(label, Special) else np.squeeze(label, axis)

    return tuple(drop(labels[i]) for i in rest)


@rule("aten.unbind")
def unbind(call: Call) -> tuple[Labels, ...]:
    """One result for every index of an axis."""
    x = call["self"]
    axis = call.axis("dim", x.rank)
    return tuple(_pick(call, x, axis, k) for k in range(x.shape[axis]))


@rule(
    "aten.split",
    "aten.chunk",
    "aten.split_with_sizes",
    "aten.tensor_split",
    "aten.unsafe_split",
    "aten.unsafe_chunk",
    "aten.vsplit",
    "aten.hsplit",
    "aten.dsplit",
)
def split(call: Call) -> tuple[Labels, ...]:
    """Every piece has units of its own, to which the axis' units belong."""
    x = call["self"]
    name = operator_name(call.node.target)
    named = {"aten.vsplit": 0, "aten.hsplit": min(1, x.rank - 1), "aten.dsplit": 2}
    axis = named[name] if name in named else call.axis("dim", x.rank)
    pieces, start = [], 0
    for piece in call.result:
        size = int(piece.shape[axis])
        pieces.append(call.units.take(x.labels, axis, indices(start, start + size)))
        start += size
    return tuple(pieces)


@rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(call: Call) -> Labels:
    """The units of the joined axis belong to those of the parts."""
    parts = [x for x in call["tensors"] if x.value.numel() or x.rank > 1]
    axis = call.axis("dim", parts[0].rank)
    return call.units.join([x.labels for x in parts], [x.shape for x in parts], axis)


@rule("aten.stack")
def stack(call: Call) -> Labels:
    """Joined along a new axis."""
    parts: list[Operand] = call["tensors"]
    axis = call.axis("dim", len(call.shape))
    shapes = [(*x.shape[:axis], 1, *x.shape[axis:]) for x in parts]
    labels = [_as_fixed(_insert_axis(x.labels, axis), axis) for x in parts]
    return call.units.join(labels, shapes, axis)


def _as_fixed(labels: Labels, axis: int) -> Labels:
    return (*labels[:axis], FIXED, *labels[axis + 1 :])


@rule("aten.constant_pad_nd", "aten.pad")
def pad(call: Call) -> Labels:
    """Concatenation with constant pieces: along a channel axis they are free units of their own."""
    x = call["self"]
    widths = [int(n) for n in call["pad"]]
    labels: Labels = x.labels
    if call.get("mode") not in (None, "constant"):
        padded = range(x.rank - len(widths) // 2, x.rank)
        call.pin(x, padded, "padded by its own values")
        return tuple(FIXED if i in padded else label for i, label in enumerate(labels))
    sizes = list(x.shape)
    for k in range(len(widths) // 2):
        axis = x.rank - 1 - k
        before, after = widths[2 * k : 2 * k + 2]
        if before < 0 or after < 0:
            kept = indices(max(-before, 0), sizes[axis] - max(-after, 0))
            labels = call.units.take(labels, axis, kept)
            sizes[axis] = len(kept)
        labels = _padded(call, labels, sizes, axis, (max(before, 0), max(after, 0)))
    return labels


def _padded(
    call: Call, labels: Labels, sizes: list[int], axis: int, widths: tuple[int, int]
) -> Labels:
    constant: Labels = tuple(ANY for _ in sizes)
    shapes = [[*sizes[:axis], n, *sizes[axis + 1 :]] for n in (widths[0], sizes[axis], widths[1])]
    parts = [
        (p, s) for p, s in zip((constant, labels, constant), shapes, strict=True) if s[axis] > 0
    ]
    sizes[axis] = sum(s[axis] for _, s in parts)
    if len(parts) == 1:
        return labels
    if labels[axis] is FIXED:
        constant = _as_fixed(constant, axis)
        parts = [(constant if p is not labels else p, s) for p, s in parts]
    return call.units.join([p for p, _ in parts], [s for _, s in parts], axis)


@rule("aten.slice_scatter", "aten.select_scatter")
def scatter(call: Call) -> Labels:
    """A piece is replaced: a concatenation of the rest and the piece, put in order."""
    x, source = call["self"], call["src"]
    axis, size = call.axis("dim", x.rank), x.shape[call.axis("dim", x.rank)]
    labels: Labels = source.labels
    shape = list(source.shape)
    if source.rank < x.rank:
        picked = np.asarray([int(call["index"]) % size])
        labels = _as_fixed(_insert_axis(labels, axis), axis)
        shape.insert(axis, 1)
    else:
        picked = _sliced(call, size)
    rest = np.setdiff1d(np.arange(size), picked)
    if not len(rest):
        return labels
    kept = [*x.shape[:axis], len(rest), *x.shape[axis + 1 :]]
    parts = [call.units.take(x.labels, axis, rest), labels]
    joined = call.units.join(parts, [kept, shape], axis)
    return call.units.take(joined, axis, np.argsort(np.concatenate([rest, picked])))


@rule("aten.pixel_shuffle")
def pixel_shuffle(call: Call) -> Labels:
    """``(c r r) h w -> c (h r) (w r)``: the sub-pixels and places stay."""
    x, r = call["self"], int(call["upscale_factor"])
    call.pin(x, [x.rank - 2, x.rank - 1], "a spatial axis")
    channel = x.rank - 3
    sizes = [x.shape[channel] // r**2, r**2]
    labels = call.units.split(x.labels, x.shape, channel, sizes)
    call.units.pin(labels[channel + 1], "sub-pixels of a pixel shuffle", channel + 1)
    letters = list(range(x.rank + 1))
    shape = (*x.shape[:channel], *sizes, *x.shape[channel + 1 :])
    kept = letters[: channel + 1]
    lead = call.einsum([(labels, letters)], kept, sizes=[shape])
    return call.einsum([(lead, kept)], [*kept, "h", "w"], sizes=[shape[: channel + 1]])


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Labels:
    """``c (h r) (w r) -> (c r r) h w``: new channels belong to a channel and a sub-pixel."""
    x, r = call["self"], int(call["downscale_factor"])
    call.pin(x, [x.rank - 2, x.rank - 1], "a spatial axis")
    channel = x.rank - 3
    kept = list(range(channel + 1))
    lead = call.einsum([(x, list(range(x.rank)))], kept)
    labels = call.einsum([(lead, kept)], [*kept, "r"], sizes=[x.shape[: channel + 1]])
    shape = [*x.shape[: channel + 1], r**2]
    merged = call.units.merge(labels, shape, channel, channel + 2)
    flat = [*x.shape[:channel], x.shape[channel] * r**2]
    return call.einsum([(merged, kept)], [*kept, "h", "w"], sizes=[tuple(flat)])


@rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(call: Call) -> Labels:
    """``(g c) -> (c g)``."""
    x, groups = call["self"], int(call["groups"])
    sizes = [groups, x.shape[1] // groups]
    labels = call.units.split(x.labels, x.shape, 1, sizes)
    shape = [x.shape[0], *sizes, *x.shape[2:]]
    order = [0, 2, 1, *range(3, len(shape))]
    swapped = relabel_axes(labels, order)
    return call.units.merge(swapped, [shape[i] for i in order], 1, 3)


@rule("aten.one_hot")
def one_hot(call: Call) -> Labels:
    """A new axis of classes, which are numbers and stay."""
    x = call["self"]
    letters = list(range(x.rank))
    return call.einsum([(x, letters)], [*letters, "class"])


@rule("aten.unfold")
def windows(call: Call) -> Labels:
    """Windows along an axis, which stays; the places inside them are a new last axis."""
    x = call["self"]
    axis = call.axis("dimension", x.rank)
    call.pin(x, [axis], "the order along this axis matters")
    letters = list(range(x.rank))
    free = [i for i in letters if i != axis]
    labels = call.einsum([(x, letters)], free)
    sizes = tuple(x.shape[i] for i in free)
    return call.einsum([(labels, free)], [*letters, "window"], sizes=[sizes])


@rule("aten.im2col")
def im2col(call: Call) -> Labels:
    """``…c h w -> …(c k) l``: an entry belongs to a channel and a place in the kernel."""
    x = call["self"]
    call.pin(x, [x.rank - 2, x.rank - 1], "a spatial axis")
    channel = x.rank - 3
    letters = list(range(channel + 1))
    lead = call.einsum([(x, list(range(x.rank)))], letters)
    kernel = call.shape[channel] // x.shape[channel]
    wide = call.einsum([(lead, letters)], [*letters, "k"], sizes=[x.shape[: channel + 1]])
    merged = call.units.merge(wide, [*x.shape[: channel + 1], kernel], channel, channel + 2)
    return call.einsum([(merged, letters)], [*letters, "l"], sizes=[call.shape[:-1]])


@rule("aten.col2im")
def col2im(call: Call) -> Labels:
    """``…(c k) l -> …c h w``: entries belong to a channel; places in the kernel stay."""
    x = call["self"]
    call.pin(x, [x.rank - 1], "a spatial axis")
    channel = x.rank - 2
    sizes = [call.shape[channel], x.shape[channel] // call.shape[channel]]
    labels = call.units.split(x.labels, x.shape, channel, sizes)
    call.units.pin(labels[channel + 1], "a kernel axis", channel + 1)
    shape = (*x.shape[:channel], *sizes, x.shape[-1])
    letters = list(range(len(shape)))
    lead = call.einsum([(labels, letters)], letters[: channel + 1], sizes=[shape])
    return call.einsum(
        [(lead, letters[: channel + 1])],
        [*letters[: channel + 1], "h", "w"],
        sizes=[shape[: channel + 1]],
    )


@rule("aten.view_as_complex")
def view_as_complex(call: Call) -> Labels:
    """The last axis is (real, imaginary): it stays, and vanishes."""
    x = call["self"]
    call.pin(x, [x.rank - 1], "real and imaginary part")
    letters = list(range(x.rank))
    return call.einsum([(x, letters)], letters[:-1])


@rule("aten.view_as_real")
def view_as_real(call: Call) -> Labels:
    """A new last axis (real, imaginary)."""
    x = call["self"]
    letters = list(range(x.rank))
    return call.einsum([(x, letters)], [*letters, "part"])


@rule("aten.broadcast_tensors")
def broadcast_tensors(call: Call) -> tuple[Labels, ...]:
    """Each by itself; axes of size 1 that grow are constant."""
    return tuple(_expanded(call, x) for x in call.tensors())
