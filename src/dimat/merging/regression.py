r"""``regression``: layer by layer, the weights whose outputs come closest to the parents'.

Averaged weights make every layer's output a little off, and the errors pile up. So go through the
merged network in the order of its layers. Let Z be what it feeds into a layer itself, and T the
weighted mean of the aligned parents' outputs there, on the same unlabeled inputs:

.. math:: W^* = \arg\min_W \lVert W Z - T \rVert^2 / n + \lVert (W - \bar W) D^{1/2} \rVert^2
    = \bar W + (T - \bar W Z) Z^\top / n \; (Z Z^\top / n + D)^{-1},
    \quad D = \lambda\, \mathrm{diag}(Z Z^\top / n)

then run the merged network on through :math:`W^*`. At a residual sum T is the mean of the parents'
sums less the merged network's own other operand, so that errors of the past are made good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dimat.merging.goal import LEAST_ROWS, Lockstep, average
from dimat.merging.layer import layer_of
from dimat.merging.mix import mix
from dimat.merging.norms import fit_norm, folded, unfold
from dimat.merging.sites import Site, sites
from dimat.state import State, widened
from dimat.symmetry import Analysis

RIDGE = 0.003  # λ; measured in docs/matching.md
ROWS_PER_UNKNOWN = 20  # observations a layer for every weight of one output unit


@dataclass(frozen=True)
class Regression:
    """Ridge regression of every layer to the mean of the aligned parents' outputs.

    Convolutions of all kinds and linear layers (attention projections among them) are fitted, a
    BatchNorm that follows is fitted with them, and other norms unit by unit; everything else is
    averaged: embeddings, recurrent cells, tied weights. No labels and no gradients are needed.

    *Assumes* aligned parents, and inputs that reach all that they have learned: images like those
    of the agent's own shard carried over even classes that it had never seen. *Breaks when* there
    are fewer observations than a layer has inputs: it then stays near the average.

    Args:
        ridge: λ, relative to the variance of every input, > 0.
        rows_per_unknown: Observations for every weight of one output unit; more cost more time.
    """

    ridge: float = RIDGE
    rows_per_unknown: int = ROWS_PER_UNKNOWN
    needs_batches: bool = True

    def combine(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        batches: Sequence[Any],
    ) -> State:
        """Fit layer after layer; the parents run one layer ahead of the merged network."""
        trace, wide = analysis.trace, [widened(state) for state in states]
        merged = mix(wide, weights)
        lockstep = Lockstep(trace, wide, merged, weights, batches)
        for site in sites(trace, sums=True):
            if site.norm is site.op:
                fit_norm(lockstep.at(site, LEAST_ROWS), merged, self.ridge)
            else:
                self._fit_layer(site, lockstep, merged, wide)
        return {key: value.to(states[0][key].dtype) for key, value in merged.items()}

    def _fit_layer(
        self, site: Site, lockstep: Lockstep, merged: State, states: Sequence[Mapping[str, Tensor]]
    ) -> None:
        assert site.weight is not None
        layer = layer_of(site.op, merged[site.weight])
        start = average([folded(site, layer, state) for state in states], lockstep.weights)
        quota = max(self.rows_per_unknown * start.shape[2], LEAST_ROWS)
        goal = lockstep.at(site, quota)
        moments = Moments(start, intercept=site.bias is not None or site.norm is not None)
        for z, target in goal.rows(layer, quota):
            moments.update(z, target)
        matrix, intercept = (x.to(start.dtype) for x in moments.solve(self.ridge))
        if site.norm is not None:
            unfold(site, layer, merged, goal.ours, (matrix, intercept))
            return
        merged[site.weight] = layer.weight(matrix, merged[site.weight])
        if site.bias is not None:
            merged[site.bias] = intercept


class Moments:
    """What a ridge regression needs of its observations, accumulated in float64.

    Args:
        start: (groups, outputs, inputs), the matrix that it is drawn to.
        intercept: Whether a constant is fitted too.
    """

    def __init__(self, start: Tensor, *, intercept: bool) -> None:
        groups, outputs, inputs = start.shape
        self.start, self.intercept, self.count = start, intercept, 0
        zeros = partial(torch.zeros, dtype=torch.float64, device=start.device)
        self.gram, self.cross = zeros(groups, inputs, inputs), zeros(groups, outputs, inputs)
        self.sum_z, self.sum_rest = zeros(groups, inputs), zeros(groups, outputs)

    def update(self, z: Tensor, target: Tensor) -> None:
        """Add observations: (rows, groups, inputs) and (rows, groups, outputs)."""
        z = z.transpose(0, 1)
        rest = target.transpose(0, 1) - z @ self.start.mT
        self.gram += z.mT @ z
        self.cross += rest.mT @ z
        self.sum_z += z.sum(1)
        self.sum_rest += rest.sum(1)
        self.count += z.shape[1]

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """The matrix, and the (channels,) intercept of its outputs (zero if none is fitted)."""
        n = self.count
        gram, cross = self.gram / n, self.cross / n
        mean_z, mean_rest = self.sum_z / n, self.sum_rest / n
        if self.intercept:
            gram = gram - mean_z[:, :, None] * mean_z[:, None, :]
            cross = cross - mean_rest[:, :, None] * mean_z[:, None, :]
        diagonal = gram.diagonal(dim1=1, dim2=2)
        floor = 1e-6 * diagonal.mean(1, keepdim=True) + 1e-12  # inputs that are always zero
        diagonal += ridge * diagonal.clone() + floor
        change = torch.cholesky_solve(cross.mT, torch.linalg.cholesky(gram)).mT
        matrix = self.start.double() + change
        shift = mean_rest - (change @ mean_z[:, :, None])[:, :, 0]
        return matrix, shift.flatten() if self.intercept else torch.zeros_like(shift.flatten())
