r"""Merging by ``regression``: weights whose outputs come closest to the parents', layer by layer.

Averaged weights make every layer's output a little off, and the errors pile up. So the layers are
fitted in the order of the network. Let Z be the inputs of a layer in the merged network, and T the
weighted mean of the aligned parents' outputs there, on the same unlabeled inputs:

.. math:: W^* = \arg\min_W \lVert W Z - T \rVert^2 / n + \lVert (W - \bar W) D^{1/2} \rVert^2
    = \bar W + (T - \bar W Z) Z^\top / n \; (Z Z^\top / n + D)^{-1},
    \quad D = \lambda\, \mathrm{diag}(Z Z^\top / n) + \varepsilon I

where Z and T are taken without their means if a bias is fitted too, and ε is 10⁻⁶ of the mean of
the diagonal, plus 10⁻¹²: some inputs are always zero, or constant. Where rounding leaves a matrix
that is not positive, ε is ten times that, or more. Then the merged network runs on through
:math:`W^*`. At a residual sum T is the mean of the parents' sums less the merged network's own
other operand, so that errors of earlier layers are corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.merging.layerwise.layer import layer_of
from dimat.merging.layerwise.layerwise_run import LEAST_ROWS, LayerwiseRun, average
from dimat.merging.layerwise.norms import fit_norm, folded, unfold
from dimat.merging.layerwise.products import add_products, mirror, patch_products, pays
from dimat.merging.layerwise.sites import Site, sites
from dimat.merging.mix import mix
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
        """The state fitted layer after layer; parents run one layer ahead of the merged network."""
        trace, wide = analysis.trace, [widened(state) for state in states]
        merged = mix(wide, weights)
        layerwise = LayerwiseRun(trace, wide, merged, weights, batches)
        for site in sites(trace, sums=True):
            if site.weight is not None and merged[site.weight].is_complex():
                continue  # averaged
            if site.norm is site.op:
                fit_norm(layerwise.at(site, LEAST_ROWS), merged, self.ridge)
            else:
                self._fit_layer(site, layerwise, merged, wide)
        return {key: value.to(states[0][key].dtype) for key, value in merged.items()}

    def _fit_layer(
        self,
        site: Site,
        layerwise: LayerwiseRun,
        merged: State,
        states: Sequence[Mapping[str, Tensor]],
    ) -> None:
        assert site.weight is not None
        layer = layer_of(site.op, merged[site.weight])
        start = average([folded(site, layer, state) for state in states], layerwise.weights)
        quota = max(self.rows_per_unknown * start.shape[2], LEAST_ROWS)
        goal = layerwise.at(site, quota)
        intercept, rows = site.bias is not None or site.norm is not None, goal.num_rows(layer)
        shared = rows <= quota and pays(layer, goal.inputs, rows)  # then no row is left out
        products = patch_products(layer, goal.inputs) if shared else None
        moments = NormalEquations(start, intercept=intercept, products=products)
        for z, target in goal.rows(layer, quota):
            moments.update(z, target)
        try:
            matrix, constant = (x.to(start.dtype) for x in moments.solve(self.ridge))
        except StructureError as error:
            raise StructureError(
                f"'{site.weight}' cannot be fitted on these inputs: {error}; combine by 'average'"
            ) from error
        if site.norm is not None:
            unfold(site, layer, merged, goal.ours, (matrix, constant))
            return
        merged[site.weight] = layer.weight(matrix, merged[site.weight])
        if site.bias is not None:
            merged[site.bias] = constant


class NormalEquations:
    """The normal equations of a ridge regression, accumulated in float64.

    Where a constant is fitted too, inputs are shifted by the first batch's mean: with a mean that
    is large against the deviation, products in float32 would lose all digits of the covariance.

    Args:
        start: (groups, outputs, inputs) matrix that the ridge draws the solution to.
        intercept: Whether a constant is fitted too.
        products: Sums of outer products of all inputs and of the inputs, as
            :func:`~dimat.merging.layerwise.products.patch_products` makes them, used up; None:
            they are made of the rows.
    """

    def __init__(
        self,
        start: Tensor,
        *,
        intercept: bool,
        products: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        groups, outputs, inputs = start.shape
        self.start, self.intercept, self.count = start, intercept, 0
        self.products = products
        zeros = partial(torch.zeros, dtype=torch.float64, device=start.device)
        if products is None:
            self.gram = zeros(groups, inputs, inputs)
        self.cross = zeros(groups, outputs, inputs)
        self.sum_z, self.sum_rest = zeros(groups, inputs), zeros(groups, outputs)
        self.shift: Tensor | None = None

    def update(self, z: Tensor, target: Tensor) -> None:
        """Add observations.

        Args:
            z: (rows, groups, inputs).
            target: (rows, groups, outputs).
        """
        z = z.transpose(0, 1)
        rest = target.transpose(0, 1) - z @ self.start.mT
        if self.intercept:
            self.shift = z.mean(1, keepdim=True) if self.shift is None else self.shift
            z = z - self.shift
        if self.products is None:
            add_products(self.gram, z)
        self.cross += rest.mT @ z
        self.sum_z += z.sum(1)
        self.sum_rest += rest.sum(1)
        self.count += z.shape[1]

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """The fitted matrix, and the (channels,) intercept of its outputs, zero if not fitted.

        The last thing to be asked: the sums are used up, as copies would take as much again.

        Args:
            ridge: Relative ridge, > 0.

        Raises:
            StructureError: If an observation is not finite.
        """
        n = self.count
        mean_z, mean_rest = self.sum_z / n, self.sum_rest / n
        gram, mean = self._gram(mean_z)
        cross = self.cross / n
        if self.intercept:
            gram.baddbmm_(mean[:, :, None], mean[:, None, :], alpha=-1)
            cross = cross - mean_rest[:, :, None] * mean_z[:, None, :]
        if not bool(gram.sum().isfinite() and cross.sum().isfinite()):
            raise StructureError("what goes in or comes out is not finite, or out of range")
        change = torch.cholesky_solve(cross.mT, _factor(gram, ridge)).mT
        matrix = self.start.double() + change
        if self.shift is not None:
            mean_z = mean_z + self.shift[:, 0].double()
        shift = mean_rest - (change @ mean_z[:, :, None])[:, :, 0]
        return matrix, shift.flatten() if self.intercept else torch.zeros_like(shift.flatten())

    def _gram(self, mean_z: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of outer products, and the mean of the same inputs."""
        if self.products is None:
            return mirror(self.gram).div_(self.count), mean_z
        return self.products[0].div_(self.count), self.products[1] / self.count


def _factor(gram: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of a Gram matrix with a ridge, and a floor that rounding may raise.

    Both are written into the matrix, which is large: a copy of it costs more than the sums.
    """
    own = gram.diagonal(dim1=1, dim2=2).clone()
    diagonal = own.clamp_min(0)
    floor = 1e-6 * diagonal.mean(1, keepdim=True) + 1e-12
    while True:
        gram.diagonal(dim1=1, dim2=2).copy_(own + (ridge * diagonal + floor))
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(gram)
        if not bool(failed.any()):
            return factor
        floor = 10 * floor
