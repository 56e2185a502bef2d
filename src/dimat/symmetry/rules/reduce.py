"""Reductions, pooling and what acts along an axis as a whole."""

from __future__ import annotations

from torch import Tensor

from dimat.symmetry.call import Call, Operand
from dimat.symmetry.rules.registry import rule
from dimat.symmetry.units import FIXED, Label, Labels


def _first(call: Call) -> Operand:
    return call.tensors()[0]


@rule(
    "aten.mean",
    "aten.sum",
    "aten.amax",
    "aten.amin",
    "aten.var",
    "aten.std",
    "aten.prod",
    "aten.logsumexp",
    "aten.linalg_vector_norm",
    "aten.norm",
    "aten.any",
    "aten.all",
)
def reduction(call: Call) -> Labels:
    """Symmetric in the reduced axes, which vanish (or stay with size 1)."""
    x = _first(call)
    gone = call.axes("dim", x.rank)
    kept = [i for i in range(x.rank) if i not in gone]
    labels = call.einsum([(x, list(range(x.rank)))], kept)
    if len(call.shape) == len(kept):
        return labels
    rest = iter(labels)
    shrunk = [next(rest) if i in kept else None for i in range(x.rank)]
    letters = [i for i in range(x.rank) if i in kept]
    full = call.einsum(
        [(labels, letters)], list(range(x.rank)), sizes=[tuple(x.shape[i] for i in kept)]
    )
    return tuple(FIXED if s is None else f for s, f in zip(shrunk, full, strict=True))


@rule("aten.var_mean", "aten.std_mean")
def two_moments(call: Call) -> tuple[Labels, ...]:
    labels = reduction(call)
    return labels, labels


@rule("aten.max", "aten.min")
def extremum(call: Call) -> Labels | tuple[Labels, ...]:
    """Along an axis the position of the extremum moves with the units: that result pins them."""
    if isinstance(call.result, Tensor):
        return reduction(call) if call.get("other") is None else call.broadcast(*call.tensors())
    x = _first(call)
    call.pin(x, call.axes("dim", x.rank), "indices into it are returned")
    labels = reduction(call)
    return labels, labels


@rule("aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten.softmin")
def softmax(call: Call) -> Labels:
    """Symmetric in the normalized axis."""
    return _first(call).labels


@rule("aten.cumsum", "aten.cumprod", "aten.flip", "aten.roll", "aten.logcumsumexp")
def ordered(call: Call) -> Labels:
    """The order along the axis matters: it is pinned."""
    x = _first(call)
    name = "dims" if "dims" in call.arguments else "dim"
    along = call.axes(name, x.rank)
    call.pin(x, along, "the order along this axis matters")
    labels = list(call.einsum([(x, list(range(x.rank)))], list(range(x.rank))))
    free = [i for i in range(x.rank) if i not in along]
    rest = call.einsum([(x, list(range(x.rank)))], free)
    for i, label in zip(free, rest, strict=True):
        labels[i] = _insert(label, free, x.rank)
    for i in along:
        labels[i] = FIXED
    return tuple(labels)


def _insert(label: Label, kept: list[int], rank: int) -> Label:
    if not hasattr(label, "reshape"):
        return label
    shape = [1] * rank
    for i, n in zip(kept, label.shape, strict=True):
        shape[i] = n
    return label.reshape(shape)


_POOLS = [
    f"aten.{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg", "lp") for n in (1, 2, 3)
]
_UPSAMPLES = [
    "aten.upsample_nearest1d",
    "aten.upsample_nearest2d",
    "aten.upsample_nearest3d",
    "aten._upsample_nearest_exact1d",
    "aten._upsample_nearest_exact2d",
    "aten.upsample_linear1d",
    "aten.upsample_bilinear2d",
    "aten.upsample_bicubic2d",
    "aten.upsample_trilinear3d",
    "aten.grid_sampler_2d",
    "aten._adaptive_avg_pool2d",
    "aten._adaptive_avg_pool3d",
    "aten.reflection_pad1d",
    "aten.reflection_pad2d",
    "aten.reflection_pad3d",
    "aten.replication_pad1d",
    "aten.replication_pad2d",
    "aten.replication_pad3d",
]


@rule(*_POOLS, *_UPSAMPLES)
def spatial(call: Call) -> Labels:
    """Acts on the places of each channel; batch and channel axes keep their units."""
    x = _first(call)
    call.pin(x, range(2, x.rank), "a spatial axis")
    letters = list(range(x.rank))
    labels = call.einsum([(x, letters)], letters[:2])
    full = call.einsum([(labels, [0, 1])], letters, sizes=[x.shape[:2]])
    return full[:2] + (FIXED,) * (x.rank - 2)


@rule(
    "aten.max_pool2d_with_indices",
    "aten.max_pool3d_with_indices",
    "aten.max_pool1d_with_indices",
    "aten.adaptive_max_pool1d",
    "aten.adaptive_max_pool2d",
    "aten.adaptive_max_pool3d",
)
def spatial_with_indices(call: Call) -> tuple[Labels, ...]:
    """Like :func:`spatial`; the returned indices are places within a channel."""
    labels = spatial(call)
    return labels, labels
