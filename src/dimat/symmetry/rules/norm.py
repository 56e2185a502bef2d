"""Normalization layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dimat.symmetry.labels.operator_call import Call, Operand, Result
from dimat.symmetry.labels.units import FIXED, Labels
from dimat.symmetry.rules.registry import rule


def _per_channel(call: Call, x: Operand, names: tuple[str, ...]) -> tuple[Labels, Labels]:
    """Tie per-channel vectors to axis 1; labels of the result and of one such vector."""
    letters: list[Any] = list(range(x.rank))
    vectors = [call.get(name) for name in names]
    operands = [(x, letters), *((v, [1]) for v in vectors if isinstance(v, Operand))]
    return call.einsum(operands, letters), call.einsum(operands, [1])


@rule("aten.batch_norm", "aten.instance_norm")
def batch_norm(call: Call) -> Labels:
    """Channel by channel; statistics are sums over whole axes."""
    return _per_channel(call, call["input"], ("weight", "bias", "running_mean", "running_var"))[0]


@rule(
    "aten._native_batch_norm_legit_no_training",
    "aten._native_batch_norm_legit_functional",
    "aten._native_batch_norm_legit",
    "aten.native_batch_norm",
)
def native_batch_norm(call: Call) -> tuple[Labels, ...]:
    """Like :func:`batch_norm`; further results are per-channel statistics."""
    names = ("weight", "bias", "running_mean", "running_var")
    out, vector = _per_channel(call, call["input"], names)
    return (out, *(vector if x.numel() else (FIXED,) for x in call.result[1:]))


@rule("aten.layer_norm", "aten.rms_norm", "aten._fused_rms_norm", "aten.native_layer_norm")
def layer_norm(call: Call) -> Result:
    """Over whole trailing axes, then element-wise."""
    operands = [call["input"], *(call.get(n) for n in ("weight", "bias"))]
    out = call.broadcast(*(x for x in operands if isinstance(x, Operand)))
    if isinstance(call.result, Tensor):
        return out
    trailing = len(call["normalized_shape"])
    letters = list(range(len(out)))
    rows = call.einsum([(out, letters)], letters[:-trailing], sizes=[call.shape])
    shape = call.shape[:-trailing]
    statistics = call.einsum([(rows, letters[:-trailing])], letters, sizes=[shape])
    return (out, *(statistics for _ in call.result[1:]))


@rule("aten.group_norm")
def group_norm(call: Call) -> Labels:
    """Channels belong to their group, over which the statistics are taken."""
    x, groups = call["input"], int(call["num_groups"])
    if groups > 1:
        call.units.split(x.labels, x.shape, 1, [groups, x.shape[1] // groups])
    return _per_channel(call, x, ("weight", "bias"))[0]
