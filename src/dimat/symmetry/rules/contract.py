"""Operators that contract: linear, convolution, matrix products, embedding."""

from __future__ import annotations

from typing import Any

from dimat.symmetry.call import Call, Operand
from dimat.symmetry.rules.registry import rule
from dimat.symmetry.units import Labels


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
        out = call.einsum(
            [(x_labels, ["b", "g", "c", *space]), (w_labels, [*w_letters, *kernel])],
            ["b", "g", "o"],
            sizes=[x_shape, w_shape],
        )
        out = units.merge(out, (x.shape[0], *inner[1]), 1, 3)
    labels = call.einsum([(out, ["b", "o"])], ["b", "o", *space], sizes=[call.shape[:2]])
    return _with_bias(call, labels, 1)
