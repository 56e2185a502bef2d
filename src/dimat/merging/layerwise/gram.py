r"""Merging by ``gram``: every layer's weights count in the directions that its own data excite.

An agent that has seen two classes knows little about how a layer should answer to the others, and
says so by the second moments of the layer's inputs on its own images, its Gram matrix
:math:`G_j = Z_j^\top Z_j / n_j` (a one appended to every input for the bias). The merged layer is

.. math:: W = \arg\min_W \sum_j \pi_j \,\mathbb E_j \lVert W z - W_j z \rVert^2
    = \bar W + \sum_j \pi_j (W_j - \bar W) \tilde G_j \Big(\sum_j \pi_j \tilde G_j\Big)^{-1},
    \quad \bar W = \sum_j \pi_j W_j

with :math:`\tilde G = \alpha G + (1 - \alpha)\,\mathrm{diag}\,G + \varepsilon I`, ε relative to the
mean of the diagonal. Where all Grams are alike that is the average. No image travels, and no agent
runs another's network: each measures its own Grams on its own images under its own weights.

Before a BatchNorm, what is fitted is the layer's normalized output, (W z - mean) / deviation with
each agent's own running statistics. A mean of answers that differ is smaller than each of them,
more so from layer to layer, so every channel of the fit is scaled until its mean square over all
agents' inputs is that of the agents' own outputs there. The merged running statistics are those
with which the merged network computes just that, so it needs no recalibration on the classes that
an agent happens to have; scale and shift are averaged. (To fold the scale in as well, and unfold it
with statistics of the mixture, was tried and diverges: those vary more than an agent's own images,
by which the next training normalizes, so that scales grow from round to round.)

References:
    Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models" (RegMean), ICLR
    2023; Jordan et al., "REPAIR: REnormalizing Permuted Activations for Interpolation Repair", ICLR
    2023 (scales outputs likewise, on images).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import Trace
from dimat.merging.layerwise.layer import Layer, layer_of
from dimat.merging.layerwise.layerwise_run import LEAST_ROWS, average, entrywise
from dimat.merging.layerwise.products import add_products, mirror, patch_products, pays
from dimat.merging.layerwise.second_moments import (
    are_moments,
    are_shares,
    in_order,
    num_whole,
    pack,
    unpack,
)
from dimat.merging.layerwise.sites import Lookup, Site, lookups, sites
from dimat.merging.mix import mix
from dimat.state import State, check_finite, widened
from dimat.symmetry import Analysis, Permutation

_PREFIX = "gram/"  # of a key, before that of the layer's weight
_LEAST_FIT = 1e-6  # mean square of a fit that is scaled, relative to what it was fitted to
_ROWS_PER_INPUT = 4  # rows that a Gram is measured on, for each input of the layer


@dataclass(frozen=True)
class Gram:
    """RegMean: least squares over what every agent's layer answers on its own images.

    Convolutions of all kinds and linear layers (attention projections among them) are fitted, with
    the BatchNorm that follows. An embedding is a linear layer of one-hot inputs, whose Gram is
    diagonal: the share of each row among all that are looked up. Everything else is averaged: other
    norms, recurrent cells, tied weights (an embedding that is also the head would need a fit of its
    own for every row).

    A Gram matrix of d inputs is (d + 1)(d + 2) / 2 numbers. Where those of all layers together are
    more than a budget, means, mean squares and leading directions of the covariance travel of every
    layer, in the same share of its whole (:mod:`dimat.merging.layerwise.second_moments`).

    *Assumes* aligned networks whose layers see like inputs, and hundreds of images an agent.
    *Breaks when* networks of several layers have gone far apart: each layer is fitted to inputs
    that earlier layers no longer give once they are merged.

    Args:
        shrink: α, the share of the off-diagonal entries that is kept, in [0, 1].
        ridge: ε, relative to the mean of the diagonal, > 0.
    """

    shrink: float = 0.9
    ridge: float = 1e-4
    needs_batches: bool = True

    def statistics(
        self,
        analysis: Analysis,
        state: Mapping[str, Tensor],
        batches: Sequence[Any],
        budget: float = 5.0,
    ) -> State:
        """The Grams of a state's layers on some inputs, packed: what travels.

        Returns:
            For every layer, under ``gram/`` and the key of its weight, moments as of
            :func:`~dimat.merging.layerwise.second_moments.pack`; for an embedding (rows,) shares.

        Raises:
            StructureError: If an input of a layer is not finite.
        """
        wide = widened(state)
        runs = [PartialInterpreter(analysis.trace, wide, x) for x in batches]
        share = _share(analysis.trace, wide, budget)
        found: State = {}
        for site, layer in _layers(analysis.trace, wide):
            gram = _measured(site, layer, wide, runs)
            if not bool(gram.sum().isfinite()):
                raise StructureError(f"an input of the layer of '{site.weight}' is not finite")
            packed = pack(gram, share * num_whole(gram.shape))
            found[_PREFIX + str(site.weight)] = packed.to(wide[str(site.weight)].dtype)
        for lookup in lookups(analysis.trace):
            weight = wide[lookup.weight]
            shares = _shares(lookup, len(weight), analysis.trace, wide, batches)
            found[_PREFIX + lookup.weight] = shares.to(weight.dtype)
        return found

    def moved(
        self,
        analysis: Analysis,
        state: Mapping[str, Tensor],
        statistics: Mapping[str, Tensor],
        permutation: Permutation,
    ) -> State:
        """The statistics of a state whose units were permuted."""
        layers = [*_layers(analysis.trace, state)]
        # Weights whose entries are the numbers of their inputs say where each input has gone.
        numbers = {
            str(site.weight): layer.weight(
                _numbers(layer, state[str(site.weight)]), state[str(site.weight)]
            )
            for site, layer in layers
        }
        numbers = analysis.symmetry.apply(permutation, numbers)
        found: State = {}
        for site, layer in layers:
            key = _PREFIX + str(site.weight)
            inputs = layer.matrix(numbers[str(site.weight)])[:, 0].long()  # (groups, inputs)
            size = inputs.shape[1]
            group, place = inputs[:, 0] // size, inputs % size
            found[key] = in_order(statistics[key], group, place)
        for lookup in lookups(analysis.trace):
            weight = state[lookup.weight]
            rows = torch.arange(len(weight), dtype=torch.float64, device=weight.device)
            there = {lookup.weight: rows[:, None].expand(weight.shape).contiguous()}
            order = analysis.symmetry.apply(permutation, there)[lookup.weight][:, 0].long()
            found[_PREFIX + lookup.weight] = statistics[_PREFIX + lookup.weight][order]
        return found

    def check(self, statistics: Mapping[str, Tensor], who: str) -> None:
        """Refuse statistics that are not finite, or not the moments of any inputs."""
        check_finite(statistics, who)
        for key, own in statistics.items():
            if not (are_shares(own) if own.dim() == 1 else are_moments(own)):
                raise StructureError(f"{who}: '{key}' holds no moments of any inputs")

    def fit(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        statistics: Sequence[Mapping[str, Tensor]],
    ) -> State:
        """The merged state, layer by layer; what is no layer is averaged."""
        wide = [widened(state) for state in states]
        merged = mix(wide, weights)
        for site, layer in _layers(analysis.trace, merged):
            grams = [unpack(own[_PREFIX + str(site.weight)].double()) for own in statistics]
            self._fit(site, layer, merged, (wide, weights, grams))
        for lookup in lookups(analysis.trace):
            key = lookup.weight
            least = self.ridge / len(merged[key])
            says = [own[_PREFIX + key].double()[:, None] + least for own in statistics]
            found = entrywise(merged[key], [x[key] for x in wide], says, weights)
            merged[key] = found.to(merged[key].dtype)
        return {key: value.to(states[0][key].dtype) for key, value in merged.items()}

    def combine(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        batches: Sequence[Any],
    ) -> State:
        """The merged state, with every state's statistics measured on the same inputs."""
        owns = [self.statistics(analysis, state, batches) for state in states]
        return self.fit(analysis, states, weights, owns)

    def _fit(self, site: Site, layer: Layer, merged: State, parents: _Parents) -> None:
        """Write the fit of a layer, and its BatchNorm's statistics, into the merged state."""
        states, weights, grams = parents
        matrices = [_affine(site, layer, state) for state in states]
        if site.bias is None and site.norm is None:  # there is no constant to fit
            matrices, grams = [m[..., :-1] for m in matrices], [g[:, :-1, :-1] for g in grams]
        answers = [m @ g for m, g in zip(matrices, grams, strict=True)]
        mean = average(grams, weights)
        fitted = self._solve(matrices, answers, weights, mean, grams)
        if site.bias is None and site.norm is None:
            merged[str(site.weight)] = _stored(site, layer, merged, fitted)
            return
        if site.norm is not None:
            fitted = _as_large(fitted, matrices, answers, weights, mean)
        matrix, intercept = fitted[..., :-1], fitted[..., -1].flatten()
        if site.norm is not None:
            deviation = average([_deviation(site, state) for state in states], weights).double()
            rows = deviation.reshape(layer.groups, -1, 1)
            merged[str(site.weight)] = _stored(site, layer, merged, matrix * rows)
            bias = merged[site.bias] if site.bias is not None else 0.0
            mean, variance = bias - intercept * deviation, deviation.square() - site.epsilon
            for key, own in ((site.mean, mean), (site.variance, variance.clamp_min(0))):
                merged[str(key)] = own.to(merged[str(key)].dtype)
            return
        merged[str(site.weight)] = _stored(site, layer, merged, matrix)
        merged[str(site.bias)] = intercept.to(merged[str(site.bias)].dtype)

    def _solve(
        self,
        matrices: Sequence[Tensor],
        answers: Sequence[Tensor],
        weights: Sequence[float],
        mean: Tensor,
        grams: Sequence[Tensor],
    ) -> Tensor:
        """(groups, outputs, inputs) least squares, of which the average of equal matrices is one.

        Args:
            matrices: (groups, outputs, inputs) of the parents.
            answers: These times their Grams.
            weights: Weights of the parents.
            mean: (groups, inputs, inputs) average of the Grams.
            grams: Grams of the parents.
        """
        diagonals = [self._beside(gram) for gram in grams]
        parts = [
            self.shrink * answer + matrix * diagonal[:, None]
            for answer, matrix, diagonal in zip(answers, matrices, diagonals, strict=True)
        ]
        part, whole = average(parts, weights), self.shrink * mean
        whole.diagonal(dim1=1, dim2=2).add_(average(diagonals, weights))
        factor, failed = torch.linalg.cholesky_ex(whole)
        if bool(failed.any()):  # moments that others say they have need not be semidefinite
            fitted: Tensor = torch.linalg.solve(whole, part, left=False)
            return fitted
        return torch.cholesky_solve(part.mT, factor).mT

    def _beside(self, gram: Tensor) -> Tensor:
        """(groups, inputs) what is added to the diagonal: the rest of it, and a ridge."""
        diagonal = gram.diagonal(dim1=1, dim2=2)
        return (1 - self.shrink) * diagonal + self.ridge * diagonal.mean(1, keepdim=True) + 1e-12


_Parents = tuple[Sequence[Mapping[str, Tensor]], Sequence[float], Sequence[Tensor]]


def _layers(trace: Trace, state: Mapping[str, Tensor]) -> Iterator[tuple[Site, Layer]]:
    """The layers that are fitted, in the order of the graph."""
    for site in sites(trace, sums=False):
        if site.norm is site.op or site.weight is None or state[site.weight].is_complex():
            continue
        yield site, layer_of(site.op, state[site.weight])


def _measured(site: Site, layer: Layer, state: State, runs: Sequence[PartialInterpreter]) -> Tensor:
    """(groups, inputs + 1, inputs + 1) Gram matrices of a layer, in float64.

    They are measured at random samples and places, or at all where that takes less.
    """
    values, sizes = [], []
    for run in runs:
        run.advance(site.op, inclusive=False)
        values.append(run.value(site.input))
        run.advance(site.op)
        sizes.append(layer.num_rows(run.value(site.op)))
    size = layer.matrix(state[str(site.weight)]).shape[2]
    rows = min(max(LEAST_ROWS, _ROWS_PER_INPUT * size), sum(sizes))
    zeros = partial(torch.zeros, dtype=torch.float64, device=values[0].device)
    gram = zeros(layer.groups, size + 1, size + 1)
    if pays(layer, values, rows):
        gram[:, :-1, :-1], gram[:, :-1, -1] = patch_products(layer, values)
        gram[:, -1, -1] = sum(sizes)
    else:
        for z in _rows(layer, values, sizes, rows / max(sum(sizes), 1)):
            add_products(gram[:, :-1, :-1], z)  # multiplied as they are, summed in float64
            gram[:, :-1, -1] += z.sum(1)
            gram[:, -1, -1] += z.shape[1]
    return mirror(gram.div_(gram[:, -1:, -1:].clone()))


def _rows(
    layer: Layer, values: Sequence[Tensor], sizes: Sequence[int], share: float
) -> Iterator[Tensor]:
    """(groups, rows, inputs) inputs of a layer, batch by batch, at random samples and places."""
    random = torch.Generator().manual_seed(0)
    for x, size in zip(values, sizes, strict=True):
        picked = torch.randperm(size, generator=random)[: max(1, round(share * size))]
        yield layer.inputs(x, picked.sort().values.to(x.device)).transpose(0, 1)


def _shares(
    lookup: Lookup, rows: int, trace: Trace, state: State, batches: Sequence[Any]
) -> Tensor:
    """(rows,) share of each row of an embedding among all that are looked up."""
    counts = torch.zeros(rows, dtype=torch.float64, device=state[lookup.weight].device)
    for x in batches:
        run = PartialInterpreter(trace, state, x)
        run.advance(lookup.op, inclusive=False)
        counts += torch.bincount(run.value(lookup.indices).flatten(), minlength=rows)
    return counts / counts.sum().clamp_min(1)


def _share(trace: Trace, state: Mapping[str, Tensor], budget: float) -> float:
    """The share of all whole Grams that the budget has room for."""
    weights, whole = 0, 0
    for site, layer in _layers(trace, state):
        weight = state[str(site.weight)]
        inputs = layer.matrix(weight).shape[2]
        weights += weight.numel()
        whole += num_whole((layer.groups, inputs + 1))
    return min(1.0, budget * weights / max(whole, 1))


def _affine(site: Site, layer: Layer, state: Mapping[str, Tensor]) -> Tensor:
    """(groups, outputs, inputs + 1) matrices of a layer, divided as the BatchNorm after it does."""
    matrix = layer.matrix(state[str(site.weight)]).double()
    constant = torch.zeros(matrix.shape[:2], dtype=matrix.dtype, device=matrix.device).flatten()
    if site.bias is not None:
        constant = constant + state[site.bias]
    if site.norm is not None:
        deviation = _deviation(site, state).double()
        constant = (constant - state[str(site.mean)]) / deviation
        matrix = matrix / deviation.reshape(layer.groups, -1, 1)
    return torch.cat([matrix, constant.reshape(*matrix.shape[:2], 1)], 2)


def _as_large(
    fitted: Tensor,
    matrices: Sequence[Tensor],
    answers: Sequence[Tensor],
    weights: Sequence[float],
    mean: Tensor,
) -> Tensor:
    """The fit, each row scaled until its outputs are as large as those that it was fitted to.

    But for rows of which the fit is next to nothing, or what they were fitted to is nothing:
    answers that cancel leave rounding errors, and these would be scaled to full size.
    """
    fits = ((fitted @ mean) * fitted).sum(-1)
    own = average([(a * m).sum(-1) for a, m in zip(answers, matrices, strict=True)], weights)
    scale = torch.where((own > 0) & (fits > _LEAST_FIT * own), own / fits, 1.0).sqrt()
    return fitted * scale[..., None]


def _deviation(site: Site, state: Mapping[str, Tensor]) -> Tensor:
    """(channels,) deviations by which the BatchNorm of a layer divides in eval mode."""
    return (state[str(site.variance)] + site.epsilon).sqrt()


def _stored(site: Site, layer: Layer, merged: State, matrix: Tensor) -> Tensor:
    """The weight of a layer that has these matrices, as the model stores it."""
    like = merged[str(site.weight)]
    return layer.weight(matrix.to(like.dtype), like)


def _numbers(layer: Layer, weight: Tensor) -> Tensor:
    """Matrices of a layer whose entries are the numbers of their inputs, over all groups."""
    groups, outputs, inputs = layer.matrix(weight).shape
    own = torch.arange(groups * inputs, dtype=torch.float64, device=weight.device)
    return own.reshape(groups, 1, inputs).expand(groups, outputs, inputs).contiguous()
