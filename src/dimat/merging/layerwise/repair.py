"""Merging by ``repair``: an average whose units are rescaled to vary as those of its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dimat.merging.layerwise.layer import Layer, layer_of
from dimat.merging.layerwise.layerwise_run import LEAST_ROWS, LayerTarget, LayerwiseRun, average
from dimat.merging.layerwise.norms import channel_moments, set_statistics
from dimat.merging.layerwise.sites import sites
from dimat.merging.mix import mix
from dimat.state import State, widened
from dimat.symmetry import Analysis


@dataclass(frozen=True)
class Repair:
    r"""The average, with the mean and deviation of every unit set to the means of its parents'.

    .. math:: \mu \leftarrow \sum_j \pi_j \mu_j, \quad \sigma \leftarrow \sum_j \pi_j \sigma_j

    Units that agree only in part average to something that varies less than either, and layer by
    layer the signal fades (variance collapse). BatchNorm recalibration mends it where there is
    BatchNorm; this does it for any layer, by scaling its weights and shifting its bias.

    *Assumes* aligned parents. *Breaks when* what is lost is not scale but direction: then
    ``regression`` does better.

    References:
        Jordan et al., "REPAIR: REnormalizing Permuted Activations for Interpolation Repair", ICLR
        2023.
    """

    needs_batches: bool = True

    def combine(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        batches: Sequence[Any],
    ) -> State:
        """The state rescaled layer after layer; parents run ahead of the merged network."""
        trace, wide = analysis.trace, [widened(state) for state in states]
        merged = mix(wide, weights)
        layerwise = LayerwiseRun(trace, wide, merged, weights, batches)
        for site in sites(trace, sums=False):
            if site.weight is not None and merged[site.weight].is_complex():
                continue  # averaged
            goal = layerwise.at(site, LEAST_ROWS)
            if site.norm is not site.op:
                _rescale(goal, merged)
            elif site.mean is not None:
                set_statistics(site, merged, [run.value(site.input) for run in goal.ours])
        return {key: value.to(states[0][key].dtype) for key, value in merged.items()}


def _rescale(goal: LayerTarget, merged: State) -> None:
    site = goal.site
    assert site.weight is not None
    layer = layer_of(site.op, merged[site.weight])
    moments = [_moments(layer, [run.value(site.end) for run in runs]) for runs in goal.parents]
    mean = average([m for m, _ in moments], goal.weights)
    deviation = average([d for _, d in moments], goal.weights)
    if site.norm is not None:
        _set_norm(goal, merged, mean, deviation)
        return
    own_mean, own = _moments(layer, [run.call(site.op) for run in goal.ours])
    factor = torch.where(own > 1e-6 * own.max(), deviation / own.clamp_min(1e-30), 1.0)
    matrix = layer.matrix(merged[site.weight]) * factor.reshape(layer.groups, -1, 1)
    merged[site.weight] = layer.weight(matrix, merged[site.weight])
    if site.bias is not None:
        merged[site.bias] = mean - factor * (own_mean - merged[site.bias])


def _set_norm(goal: LayerTarget, merged: State, mean: Tensor, deviation: Tensor) -> None:
    """Set the scale and shift of a BatchNorm so that outputs have this mean and deviation."""
    site = goal.site
    assert site.scale is not None
    assert site.shift is not None
    for run in goal.ours:
        run.advance(site.op)
    _, variance = set_statistics(site, merged, [run.value(site.op) for run in goal.ours])
    sign = torch.where(merged[site.scale] < 0, -1.0, 1.0)
    stretch = ((variance + site.epsilon) / variance.clamp_min(site.epsilon)).sqrt()
    merged[site.scale] = sign * deviation * stretch
    merged[site.shift] = mean


def _moments(layer: Layer, values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every output channel."""
    mean, variance = channel_moments([layer.outputs(x, None).flatten(1) for x in values])
    dtype = values[0].dtype
    return mean.to(dtype), variance.sqrt().to(dtype)
