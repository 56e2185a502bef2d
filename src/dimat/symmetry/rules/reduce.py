"""Reductions, pooling and what acts along an axis as a whole."""

from __future__ import annotations

from torch import Tensor

from dimat.symmetry.labels.operator_call import Call, Operand, Result
from dimat.symmetry.labels.units import FIXED, Labels
from dimat.symmetry.rules.registry import rule


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
    "aten.nanmean",
    "aten.nansum",
    "aten.count_nonzero",
    "aten.linalg_norm",
    "aten.linalg_matrix_norm",
)
def reduction(call: Call) -> Result:
    """Symmetric in the reduced axes, which vanish (or stay with size 1)."""
    return _reduced(call)


def _reduced(call: Call) -> Labels:
    x = _first(call)
    gone = call.axes("dim", x.rank)
    kept = [i for i in range(x.rank) if i not in gone]
    labels = call.einsum([(x, list(range(x.rank)))], kept)
    if len(call.shape) == len(kept):
        return labels
    sizes = tuple(x.shape[i] for i in kept)
    return call.einsum([(labels, kept)], list(range(x.rank)), sizes=[sizes])


@rule("aten.var_mean", "aten.std_mean", "aten.aminmax")
def two_moments(call: Call) -> Result:
    """Both results are labeled alike."""
    return _reduced(call), _reduced(call)


@rule("aten.max", "aten.min")
def extremum(call: Call) -> Result:
    """Along an axis the position of the extremum moves with the units: it pins them, if read."""
    if isinstance(call.result, Tensor):
        return reduction(call) if call.get("other") is None else call.broadcast(*call.tensors())
    if call.result[1] is None:
        return (_reduced(call),)
    x = _first(call)
    call.pin(x, call.axes("dim", x.rank), "indices into it are returned")
    labels = _reduced(call)
    return labels, labels


@rule("aten.sort", "aten.topk", "aten.kthvalue", "aten.median", "aten.nanmedian", "aten.mode")
def order_statistics(call: Call) -> Result:
    """Values in their own order, whatever that of the axis, which is pinned if positions are read.

    The others keep their units.
    """
    if isinstance(call.result, Tensor):
        return ()  # of all entries
    if call.result[1] is None and call.get("sorted") is not False:
        return (_along(call),)
    return positions(call)


@rule("aten.argsort", "aten.argmax", "aten.argmin", "aten.cummax", "aten.cummin")
def positions(call: Call) -> Result:
    """Positions along an axis are told apart: it is pinned, the others keep their units."""
    x = _first(call)
    axes = call.axes("dim", x.rank)
    call.pin(x, axes, "positions along this axis are told apart")
    labels = _along(call)
    return labels if isinstance(call.result, Tensor) else tuple(labels for _ in call.result)


def _along(call: Call) -> Labels:
    """Labels of what is computed along an axis, which has an order of its own afterwards."""
    x = _first(call)
    axes, letters = call.axes("dim", x.rank), list(range(x.rank))
    free = [i for i in letters if i not in axes]
    labels = call.einsum([(x, letters)], free)
    if len(call.shape) == x.rank:
        sizes = tuple(x.shape[i] for i in free)
        labels = call.einsum([(labels, free)], letters, sizes=[sizes])
    return labels


@rule("aten.tril", "aten.triu")
def triangle(call: Call) -> Labels:
    """Both axes of the triangle have an order."""
    x = _first(call)
    call.pin(x, [x.rank - 2, x.rank - 1], "a triangle has an order")
    letters = list(range(x.rank))
    labels = call.einsum([(x, letters)], letters[:-2])
    return call.einsum([(labels, letters[:-2])], letters, sizes=[x.shape[:-2]])


@rule("aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten.softmin")
def softmax(call: Call) -> Labels:
    """Symmetric in the normalized axis."""
    return _first(call).labels


_FOURIER = [
    f"aten.fft_{kind}{dims}" for kind in ("fft", "ifft", "rfft", "irfft") for dims in ("", "2", "n")
]


@rule(
    "aten.cumsum",
    "aten.cumprod",
    "aten.flip",
    "aten.roll",
    "aten.rot90",
    "aten.logcumsumexp",
    "aten.fft_fftshift",
    "aten.fft_ifftshift",
    *_FOURIER,
)
def ordered(call: Call) -> Labels:
    """The order along the axis matters: it is pinned."""
    x = _first(call)
    along = call.axes("dims" if "dims" in call.arguments else "dim", x.rank)
    call.pin(x, along, "the order along this axis matters")
    letters = list(range(x.rank))
    free = [i for i in letters if i not in along]
    labels = call.einsum([(x, letters)], free)
    return call.einsum([(labels, free)], letters, sizes=[tuple(x.shape[i] for i in free)])


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
    "aten._upsample_nearest_exact3d",
    "aten._upsample_bilinear2d_aa",
    "aten._upsample_bicubic2d_aa",
    "aten.grid_sampler",
    "aten.grid_sampler_2d",
    "aten.grid_sampler_3d",
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
def spatial(call: Call) -> Result:
    """Acts on the places of each channel; batch and channel axes keep their units."""
    return _on_places(call)


def _on_places(call: Call) -> Labels:
    x, *grids = call.tensors()
    call.pin(x, range(2, x.rank), "a spatial axis")
    for grid in grids:
        call.pin(grid, range(grid.rank), "names places")
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
    labels = _on_places(call)
    return labels, labels


@rule("aten.max_unpool2d", "aten.max_unpool3d")
def unpool(call: Call) -> Labels:
    """Each channel's values go to places of that channel, which its indices name."""
    x, where = call["self"], call["indices"]
    for operand in (x, where):
        call.pin(operand, range(2, x.rank), "a spatial axis")
    labels = call.broadcast(x, where)
    return (*labels[:2], *(FIXED for _ in labels[2:]))
