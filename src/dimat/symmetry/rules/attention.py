"""Attention and gates."""

from __future__ import annotations

import numpy as np

from dimat.symmetry.labels.operator_call import Call, Operand
from dimat.symmetry.labels.units import Labels
from dimat.symmetry.rules.registry import rule


@rule("aten.scaled_dot_product_attention", "aten._scaled_dot_product_attention_math")
def attention(call: Call) -> Labels:
    """``…htd, …hsd, …hse -> …hte``; with grouped queries h is (key/value head, query).

    Heads, QK dimensions and VO dimensions may all be permuted, inside every head by itself.
    """
    q, k, v, mask = call["query"], call["key"], call["value"], call.get("attn_mask")
    if call.get("is_causal"):
        call.pin(q, [q.rank - 2], "causal order")
        call.pin(k, [k.rank - 2], "causal order")
    batch = list(range(q.rank - 2))
    if call.get("enable_gqa") and q.shape[-3] != k.shape[-3]:
        return _grouped(call, q, k, v)
    operands = [(q, [*batch, "t", "d"]), (k, [*batch, "s", "d"]), (v, [*batch, "s", "e"])]
    if isinstance(mask, Operand):
        letters = [*batch, "t", "s"]
        operands.append((mask, letters[len(letters) - mask.rank :]))
    return call.einsum(operands, [*batch, "t", "e"])


def _grouped(call: Call, q: Operand, k: Operand, v: Operand) -> Labels:
    mask, head = call.get("attn_mask"), q.rank - 3
    sizes = [k.shape[head], q.shape[head] // k.shape[head]]
    labels = call.units.split(q.labels, q.shape, head, sizes)
    shape = (*q.shape[:head], *sizes, *q.shape[head + 1 :])
    batch = list(range(head))
    operands: list[tuple[Operand | Labels, list[object]]] = [
        (labels, [*batch, "h", "q", "t", "d"]),
        (k, [*batch, "h", "s", "d"]),
        (v, [*batch, "h", "s", "e"]),
    ]
    if isinstance(mask, Operand):
        if mask.rank > 2 and mask.shape[-3] > 1:
            call.pin(mask, [mask.rank - 3], "a mask per head")
            call.units.pin(labels[head], "a mask per head", head)
            call.units.pin(labels[head + 1], "a mask per head", head + 1)
        call.pin(mask, [mask.rank - 2, mask.rank - 1], "the order of a mask")
        call.pin(q, [q.rank - 2], "the order of a mask")
        call.pin(k, [k.rank - 2], "the order of a mask")
    out = call.einsum(operands, [*batch, "h", "q", "t", "e"], sizes=[shape])
    merged_shape = [*q.shape[:head], *sizes, q.shape[-2], v.shape[-1]]
    return call.units.merge(out, merged_shape, head, head + 2)


@rule("aten.glu")
def glu(call: Call) -> Labels:
    """The second half gates the first: both move together."""
    x = call["self"]
    axis = call.axis("dim", x.rank)
    half = x.shape[axis] // 2
    first, second = (
        call.units.take(x.labels, axis, np.arange(start, start + half)) for start in (0, half)
    )
    letters = list(range(x.rank))
    return call.einsum([(first, letters), (second, letters)], letters, sizes=[call.shape] * 2)


@rule("aten.prelu", "aten._prelu_kernel")
def prelu(call: Call) -> Labels:
    """The slope is per channel (axis 1) or one for all."""
    x, weight = call["self"], call["weight"]
    letters = list(range(x.rank))
    aligned = letters if weight.rank == x.rank else [min(1, x.rank - 1)] * weight.rank
    return call.einsum([(x, letters), (weight, aligned)], letters)
