"""Operators that contract: linear, convolution, matrix products, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dimat.symmetry.labels.operator_call import Call, Operand
from dimat.symmetry.labels.units import FIXED, Labels
from dimat.symmetry.rules.registry import rule

_MASKS = (torch.bool, torch.uint8)


def _with_bias(call: Call, labels: Labels, axis: int) -> Labels:
    """Tie the bias to ``axis`` of the result."""
    bias = call.get("bias")
    if not isinstance(bias, Operand):
        return labels
    letters = list(range(len(labels)))
    return call.einsum(
        [(labels, letters), (bias, [axis % len(labels)])], letters, sizes=[call.shape]
    )


@rule("aten.linear")
def linear(call: Call) -> Labels:
    """``…i, oi -> …o``."""
    rest: list[Any] = list(range(call["input"].rank - 1))
    out = call.einsum([(call["input"], [*rest, "i"]), (call["weight"], ["o", "i"])], [*rest, "o"])
    return _with_bias(call, out, -1)


@rule("aten.bilinear")
def bilinear(call: Call) -> Labels:
    """``…i, oij, …j -> …o``."""
    rest: list[Any] = list(range(call["input1"].rank - 1))
    operands = [
        (call["input1"], [*rest, "i"]),
        (call["weight"], ["o", "i", "j"]),
        (call["input2"], [*rest, "j"]),
    ]
    return _with_bias(call, call.einsum(operands, [*rest, "o"]), -1)


@rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot")
def matmul(call: Call) -> Labels:
    """``…ti, …io -> …to``, with PyTorch's cases for vectors."""
    a, b = call.tensors()[:2]
    batch = max(a.rank, b.rank, 2) - 2
    letters = list(range(batch))
    left = [*letters[batch - max(a.rank - 2, 0) :], *(["t"] if a.rank > 1 else []), "i"]
    right = [*letters[batch - max(b.rank - 2, 0) :], "i", *(["o"] if b.rank > 1 else [])]
    out = [*letters, *(["t"] if a.rank > 1 else []), *(["o"] if b.rank > 1 else [])]
    _want_inside(call, a, left, out)
    _want_inside(call, b, right, out)
    return call.einsum([(a, left), (b, right)], out)


@rule("aten.addmm", "aten.baddbmm")
def addmm(call: Call) -> Labels:
    """``self + ti, io -> to`` (batched for ``baddbmm``)."""
    bias, a, b = call.tensors()[:3]
    batch = list(range(a.rank - 2))
    out = call.einsum([(a, [*batch, "t", "i"]), (b, [*batch, "i", "o"])], [*batch, "t", "o"])
    letters = list(range(len(out)))
    aligned = letters[len(letters) - bias.rank :]
    return call.einsum([(out, letters), (bias, aligned)], letters, sizes=[call.shape])


@rule("aten.embedding")
def embedding(call: Call) -> Labels:
    """A row per index: rows stay, the embedding axis is free."""
    call.pin(call["weight"], [0], "looked up by index")
    rows = list(range(call["indices"].rank))
    call.pin(call["indices"], rows, "used as an index")
    return call.einsum([(call["weight"], ["v", "e"])], [*rows, "e"])


@rule("aten.embedding_renorm")
def embedding_renorm(call: Call) -> Labels:
    """Rows that are looked up are scaled to a norm: rows stay, the embedding axis is free."""
    call.pin(call["self"], [0], "looked up by index")
    call.pin(call["indices"], range(call["indices"].rank), "used as an index")
    labels: Labels = call["self"].labels
    return labels


@rule(
    "aten.conv1d",
    "aten.conv2d",
    "aten.conv3d",
    "aten.convolution",
    "aten.conv_transpose1d",
    "aten.conv_transpose2d",
    "aten.conv_transpose3d",
)
def convolution(call: Call) -> Labels:
    """``b(gc)…, (go)c… -> b(go)…``; grouped channels belong to their group, places stay.

    Transposed: the weight is ``(gc)o…``.
    """
    x, weight, groups = call["input"], call["weight"], int(call["groups"])
    transposed = bool(call.get("transposed")) or "transpose" in str(call.node.target)
    call.pin(x, range(2, x.rank), "a spatial axis")
    call.pin(weight, range(2, weight.rank), "a kernel axis")
    channels, outputs = x.shape[1], call.shape[1]
    inner = [groups, channels // groups], [groups, outputs // groups]
    units = call.units
    kernel = [f"k{i}" for i in range(weight.rank - 2)]
    space = [f"s{i}" for i in range(x.rank - 2)]
    if groups == 1:
        w_letters = ["c", "o"] if transposed else ["o", "c"]
        out = call.einsum([(x, ["b", "c", *space]), (weight, [*w_letters, *kernel])], ["b", "o"])
    else:
        x_labels = units.split(x.labels, x.shape, 1, inner[0])
        w_labels = units.split(weight.labels, weight.shape, 0, inner[0 if transposed else 1])
        x_shape = (x.shape[0], *inner[0], *x.shape[2:])
        w_shape = (*inner[0 if transposed else 1], *weight.shape[1:])
        w_letters = ["g", "c", "o"] if transposed else ["g", "o", "c"]
        call.want(weight, 1, 0)  # what lies inside a group may be permuted there by itself
        out = call.einsum(
            [(x_labels, ["b", "g", "c", *space]), (w_labels, [*w_letters, *kernel])],
            ["b", "g", "o"],
            sizes=[x_shape, w_shape],
        )
        out = units.merge(out, (x.shape[0], *inner[1]), 1, 3)
    labels = call.einsum([(out, ["b", "o"])], ["b", "o", *space], sizes=[call.shape[:2]])
    return _with_bias(call, labels, 1)


@rule("aten.vdot", "aten.outer", "aten.ger")
def products(call: Call) -> Labels:
    """``i, i ->`` and ``i, j -> ij``."""
    a, b = call.tensors()
    if len(call.shape) == 2:
        return call.einsum([(a, ["i"]), (b, ["j"])], ["i", "j"])
    return call.einsum([(a, ["i"]), (b, ["i"])], [])


@rule("aten._weight_norm")
def weight_norm(call: Call) -> Labels:
    """``g v / |v|``, the norm over all axes but one, along which g lies."""
    return call.broadcast(call["v"], call["g"])


@rule("aten.index", "aten.index_select")
def index(call: Call) -> Labels:
    """Axes that are indexed by a tensor are pinned; the others keep their units.

    The axes of the index come first, or, where the indexed axes are neighbors, in their place.
    """
    x = call["self"]
    if "dim" in call.arguments:
        given = [None] * call.axis("dim", x.rank) + [call["index"]]
    else:
        given = list(call["indices"])
    indexed = _indexed(call, x, given)
    out = _picked(x, indexed, len(call.shape) - (x.rank - len(indexed)))
    return call.einsum([(x, list(range(x.rank)))], out)


def _indexed(call: Call, x: Operand, given: Sequence[Operand | None]) -> list[int]:
    """The axes that are indexed by a tensor, pinned; a mask covers as many as it has."""
    axis = 0
    indexed: list[int] = []
    for own in given:
        width = own.rank if own is not None and own.value.dtype in _MASKS else 1
        if own is not None:
            indexed += range(axis, axis + width)
            call.pin(own, range(own.rank), "used as an index")
        axis += width
    call.pin(x, indexed, "indexed by a tensor")
    return indexed


def _picked(x: Operand, indexed: Sequence[int], count: int) -> list[Any]:
    """A letter for every axis of what an index of ``count`` axes picks."""
    letters = [i for i in range(x.rank) if i not in indexed]
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    at = sum(1 for i in letters if i < indexed[0]) if adjacent else 0
    return [*letters[:at], *(f"index{k}" for k in range(count)), *letters[at:]]


@rule("aten.index_put", "aten._unsafe_index_put")
def index_put(call: Call) -> Labels:
    """Like ``index``, the values tied to what they replace; one under a mask: element-wise."""
    x: Operand = call["self"]
    value: Operand = call["values"]
    given: list[Operand | None] = list(call["indices"])
    letters: list[Any] = list(range(x.rank))
    masks = [own for own in given if own is not None and own.value.dtype in _MASKS]
    if masks and len(given) == 1 and value.value.numel() == 1:
        return call.einsum([(x, letters), (masks[0], letters[: masks[0].rank])], letters)
    if masks:
        for operand in call.tensors():
            call.pin(operand, range(operand.rank), "as many values as the mask has entries")
        return (FIXED,) * x.rank
    indexed = _indexed(call, x, given)
    out = _picked(x, indexed, max(own.rank for own in given if own is not None))
    aligned = out[len(out) - value.rank :]
    call.pin(value, [i for i, a in enumerate(aligned) if a not in letters], "a place of its own")
    kept = [f"indexed{i}" if i in indexed else i for i in letters]
    return call.einsum([(x, kept), (value, aligned)], letters)


@rule("aten.einsum")
def einsum(call: Call) -> Labels:
    """As the equation says; a diagonal is pinned."""
    left, _, out = str(call["equation"]).replace(" ", "").partition("->")
    operands = list(zip(call["tensors"], left.split(","), strict=True))
    if not out and "->" not in str(call["equation"]):
        out = "".join(sorted(x for x in set(left) - {",", "."} if left.count(x) == 1))
        out = "..." + out if "..." in left else out
    wide = max(x.rank - len(own.replace("...", "")) for x, own in operands)
    dots = [f"dot{k}" for k in range(wide)]

    def letters(own: str, rank: int) -> list[str]:
        before, ellipsis, after = own.partition("...")
        free = rank - len(before) - len(after) if ellipsis else 0
        return [*before, *dots[len(dots) - free :], *after]

    if any(len(set(letters(own, x.rank))) < x.rank for x, own in operands):  # a diagonal
        for x, _ in operands:
            call.pin(x, range(x.rank), "a diagonal is taken")
        return (FIXED,) * len(call.shape)
    kept = letters(out, len(call.shape))
    lettered = [(x, letters(own, x.rank)) for x, own in operands]
    for x, own_letters in lettered:
        _want_inside(call, x, own_letters, kept)
    return call.einsum(lettered, kept)


def _want_inside(call: Call, x: Operand, letters: Sequence[Any], out: Sequence[Any]) -> None:
    """A parameter that keeps several axes: later ones may be permuted inside earlier ones."""
    kept = [i for i, letter in enumerate(letters) if letter in out]
    if len(kept) < len(letters):
        for k, axis in enumerate(kept):
            for other in kept[:k]:
                call.want(x, axis, other)


@rule("aten.tensordot")
def tensordot(call: Call) -> Labels:
    """Named axes are contracted, the others listed."""
    a, b = call["self"], call["other"]
    left = [f"a{i}" for i in range(a.rank)]
    right = [f"b{i}" for i in range(b.rank)]
    for i, j in zip(call["dims_self"], call["dims_other"], strict=True):
        right[int(j)] = left[int(i)]
    out = [x for x in (*left, *right) if not (x in left and x in right)]
    return call.einsum([(a, left), (b, right)], out)


@rule("aten.cdist", "aten._cdist_forward", "aten._euclidean_dist")
def distances(call: Call) -> Labels:
    """``…pi, …ri -> …pr``: sums over i of differences."""
    a, b = call["x1"], call["x2"]
    batch = list(range(len(call.shape) - 2))
    left = [*batch[len(batch) - a.rank + 2 :], "p", "i"]
    right = [*batch[len(batch) - b.rank + 2 :], "r", "i"]
    return call.einsum([(a, left), (b, right)], [*batch, "p", "r"])


@rule("aten.cosine_similarity", "aten.pairwise_distance")
def similarity(call: Call) -> Labels:
    """Element by element, then summed over one axis (the last, for distances)."""
    labels = call.broadcast(call["x1"], call["x2"])
    a, b = call["x1"].shape, call["x2"].shape
    shape = tuple(np.broadcast_shapes(a, b))
    gone = int(call.arguments.get("dim", -1)) % len(shape)
    letters = list(range(len(shape)))
    kept = [i for i in letters if i != gone]
    out = letters if len(call.shape) == len(letters) else kept
    summed = call.einsum([(labels, letters)], kept, sizes=[shape])
    return call.einsum([(summed, kept)], out, sizes=[tuple(shape[i] for i in kept)])


@rule(
    "aten.mse_loss",
    "aten.l1_loss",
    "aten.smooth_l1_loss",
    "aten.huber_loss",
    "aten.kl_div",
    "aten.binary_cross_entropy",
    "aten.binary_cross_entropy_with_logits",
)
def loss(call: Call) -> Labels:
    """Element by element, then reduced over everything or not at all."""
    labels = call.broadcast(*call.tensors())
    return labels if len(call.shape) == len(labels) else ()


@rule("aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(call: Call) -> tuple[Labels, ...]:
    """Rows are looked up and summed: rows stay, the embedding axis is free."""
    weight, *others = call.tensors()
    call.pin(weight, [0], "looked up by index")
    for other in others:
        call.pin(other, range(other.rank), "used as an index")
    out = call.einsum([(weight, ["v", "e"])], ["b", "e"])
    return tuple(out if x.dim() == 2 else (FIXED,) * x.dim() for x in call.result)


@rule("aten.gather")
def gather(call: Call) -> Labels:
    """The gathered axis is pinned; where the index is as long as the tensor, others are tied."""
    x, index = call["self"], call["index"]
    axis = call.axis("dim", x.rank)
    letters = list(range(x.rank))
    sizes = zip(x.shape, index.shape, strict=True)
    cut = [i for i, (m, n) in enumerate(sizes) if m != n or i == axis]
    call.pin(x, cut, "indexed by a tensor")
    call.pin(index, [i for i in cut if i != axis], "indexes a part")
    return call.einsum(
        [(x, [f"cut{i}" if i in cut else i for i in letters]), (index, letters)], letters
    )


@rule("aten.index_add", "aten.index_copy", "aten.index_fill")
def indexed_update(call: Call) -> Labels:
    """The indexed axis is pinned, the others are tied."""
    x, source = call["self"], call.get("source")
    axis = call.axis("dim", x.rank)
    call.pin(call["index"], range(call["index"].rank), "used as an index")
    return _update(call, x, [source] if isinstance(source, Operand) else [], axis)


@rule("aten.scatter", "aten.scatter_add", "aten.scatter_reduce")
def scatter(call: Call) -> Labels:
    """The axis that is scattered into is pinned, the others are tied."""
    x, source = call["self"], call.get("src")
    others = [call["index"], *([source] if isinstance(source, Operand) else [])]
    return _update(call, x, others, call.axis("dim", x.rank))


def _update(call: Call, x: Operand, others: list[Operand], axis: int) -> Labels:
    """Others are written into ``x`` along one axis; where they are shorter, that axis is pinned."""
    whole = (x, *others)
    cut = [i for i in range(x.rank) if i == axis or len({o.shape[i] for o in whole}) > 1]
    letters = list(range(x.rank))
    operands = []
    for k, operand in enumerate(whole):
        call.pin(operand, cut, "part of it is overwritten")
        operands.append((operand, [f"{k}:{i}" if i in cut else i for i in letters]))
    return call.einsum(operands, letters)
