"""Norms in a layer-wise fit: BatchNorm folded into the layer before it, and unfolded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dimat.graph.interpreter import PartialInterpreter
from dimat.merging.batch_moments import batch_moments
from dimat.merging.layerwise.layer import Layer
from dimat.merging.layerwise.layerwise_run import LayerTarget, average
from dimat.merging.layerwise.sites import Site, argument
from dimat.state import State


def folded(site: Site, layer: Layer, state: Mapping[str, Tensor]) -> Tensor:
    """The matrix of a layer with the scale of its BatchNorm in eval mode folded in.

    Args:
        site: The layer.
        layer: Geometry of the layer.
        state: The state.
    """
    assert site.weight is not None
    matrix = layer.matrix(state[site.weight])
    if site.scale is None or site.variance is None:
        return matrix
    scale = state[site.scale] * (state[site.variance] + site.epsilon).rsqrt()
    return matrix * scale.reshape(layer.groups, -1, 1)


def unfold(
    site: Site,
    layer: Layer,
    merged: State,
    ours: Sequence[PartialInterpreter],
    fit: tuple[Tensor, Tensor],
) -> None:
    """Write ``matrix @ z + intercept`` into a layer and the BatchNorm after it.

    The layer keeps the norms of its averaged weights and the signs of the averaged scales, so that
    training goes on as before; running statistics are those of the layer's outputs, so training
    and eval mode agree.

    Args:
        site: A layer with a BatchNorm.
        layer: Geometry of the layer.
        merged: The merged state; its entries of this site are replaced.
        ours: Runs of the merged network just before the layer, which go on through it.
        fit: (matrix, intercept): (groups, outputs, inputs) and (channels,).
    """
    matrix, intercept = fit
    assert site.weight is not None
    assert site.scale is not None
    assert site.shift is not None
    before = layer.matrix(merged[site.weight])
    sign = torch.where(merged[site.scale] < 0, -1.0, 1.0)
    length = matrix.norm(dim=2) / before.norm(dim=2).clamp_min(1e-12)
    factor = torch.where(length > 1e-12, length, 1.0).flatten() * sign
    own = matrix / factor.reshape(layer.groups, -1, 1)
    merged[site.weight] = layer.weight(own, merged[site.weight])
    for run in ours:
        run.advance(site.op)
    mean, variance = set_statistics(site, merged, [run.value(site.op) for run in ours])
    bias = merged[site.bias] if site.bias is not None else 0.0
    merged[site.scale] = factor * (variance + site.epsilon).sqrt()
    merged[site.shift] = intercept + factor * (mean - bias)


def set_statistics(site: Site, merged: State, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Set the running statistics of a BatchNorm to those of its inputs; returns mean and variance.

    Args:
        site: A BatchNorm, or a layer with one.
        merged: The merged state; the statistics are replaced.
        values: Inputs of the BatchNorm, by batch.
    """
    assert site.mean is not None
    assert site.variance is not None
    mean, variance = channel_moments(values)
    merged[site.mean] = mean.to(merged[site.mean].dtype)
    merged[site.variance] = variance.to(merged[site.variance].dtype)
    return merged[site.mean], merged[site.variance]


def channel_moments(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of every channel (axis 1) over all batches, in float64.

    Args:
        values: Tensors, by batch.
    """
    sizes = [x.numel() // x.shape[1] for x in values]
    count = sum(sizes)
    pairs = [(n / count, *batch_moments(x)) for n, x in zip(sizes, values, strict=True)]
    mean = torch.stack([n * m for n, _, m in pairs]).sum(0)
    spread = torch.stack([n * (v + (m - mean).square()) for n, v, m in pairs]).sum(0)
    return mean, spread * (count / max(count - 1, 1))


def fit_norm(goal: LayerTarget, merged: State, ridge: float) -> None:
    """Fit the scale and shift of a norm, unit by unit, by ridge regression to the target.

    Statistics of a BatchNorm become those of its inputs in the merged network.

    Args:
        goal: Target of the norm.
        merged: The merged state; its entries of the norm are replaced.
        ridge: Relative ridge, > 0.
    """
    site = goal.site
    scale = _averaged_scale(goal, merged)
    if site.weight is None or scale is None:
        return
    shift = 0.0 if site.bias is None else merged[site.bias].double()
    n, sums = 0, [torch.zeros_like(scale) for _ in range(4)]
    for run, target in goal.whole():
        x = _by_unit(site, _normalized(site, run, merged)).double()
        rest = _by_unit(site, target).double() - scale * x - shift
        n += len(x)
        for own, part in zip(sums, (x, rest, x * x, x * rest), strict=True):
            own += part.sum(0)
    mean_x, mean_r, square, cross = (own / n for own in sums)
    if site.bias is not None:
        square, cross = square - mean_x.square(), cross - mean_x * mean_r
    change = cross / (square * (1 + ridge)).clamp_min(1e-12)
    merged[site.weight] = (scale + change).to(merged[site.weight].dtype)
    if site.bias is not None:
        merged[site.bias] = (shift + mean_r - change * mean_x).to(merged[site.bias].dtype)


def _averaged_scale(goal: LayerTarget, merged: State) -> Tensor | None:
    """The scale from which the fit starts; statistics of a BatchNorm are set before.

    A BatchNorm multiplies by scale / deviation. That quotient is averaged over the parents, and
    then multiplied by the merged network's own deviation.
    """
    site = goal.site
    if site.mean is None or site.variance is None:
        return None if site.weight is None else merged[site.weight].double()
    _, variance = set_statistics(site, merged, [run.value(site.input) for run in goal.ours])
    if site.weight is None:
        return None
    parts = [
        state[site.weight] * (state[site.variance] + site.epsilon).rsqrt()
        for state in (runs[0].state for runs in goal.parents)
    ]
    return (average(parts, goal.weights) * (variance + site.epsilon).sqrt()).double()


def _normalized(site: Site, run: PartialInterpreter, merged: State) -> Tensor:
    """The result of a norm before its scale and shift."""
    if site.mean is not None and site.variance is not None:
        x: Tensor = run.value(site.input)
        shape = (1, -1, *(1,) * (x.dim() - 2))
        deviation = (merged[site.variance] + site.epsilon).sqrt()
        return (x - merged[site.mean].reshape(shape)) / deviation.reshape(shape)
    affine = [argument(site.op, "weight", 1), argument(site.op, "bias", 2)]
    result = run.call(site.op, without=affine)
    return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]


def _by_unit(site: Site, value: Tensor) -> Tensor:
    """(rows, *units) values: units are channels of axis 1, or a LayerNorm's normalized axes."""
    if not site.spatial:
        rank = len(argument(site.op, "normalized_shape", 1))
        return value.flatten(0, value.dim() - rank - 1)
    return value.movedim(1, -1).flatten(0, -2)
