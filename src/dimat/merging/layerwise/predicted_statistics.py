"""Prediction of a merged network's BatchNorm statistics from its parents', without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dimat.merging.layerwise.layer import layer_of
from dimat.merging.layerwise.layerwise_run import average
from dimat.merging.layerwise.sites import sites
from dimat.state import State
from dimat.symmetry import Analysis


def predicted_statistics(
    analysis: Analysis,
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    merged: Mapping[str, Tensor],
) -> State:
    r"""The merged state with running statistics predicted from those of the parents.

    .. math:: \mu = \sum_j \pi_j \mu_j, \quad \sigma = \sum_j \pi_j \sigma_j \cdot
        \frac{\lVert \sum_j \pi_j w_j \rVert}{\sum_j \pi_j \lVert w_j \rVert}

    for a unit with weights w after inputs of equal variance in all directions: where the parents'
    weights point apart, their average is shorter, and its outputs vary less.

    Args:
        analysis: Analysis of the model.
        states: The aligned parents.
        weights: One weight per state, summing to 1.
        merged: The average of the parents; not changed.

    Returns:
        ``merged`` with the running statistics of every BatchNorm replaced.
    """
    found = dict(merged)
    for site in sites(analysis.trace, sums=False):
        if site.mean is None or site.variance is None:
            continue
        deviation = average([state[site.variance].sqrt() for state in states], weights)
        if site.norm is not site.op and site.weight is not None:
            layer = layer_of(site.op, merged[site.weight])
            lengths = [layer.matrix(state[site.weight]).norm(dim=2).flatten() for state in states]
            own = layer.matrix(merged[site.weight]).norm(dim=2).flatten()
            deviation = deviation * own / average(lengths, weights).clamp_min(1e-12)
        found[site.mean] = average([state[site.mean] for state in states], weights)
        found[site.variance] = torch.square(deviation)
    return found
