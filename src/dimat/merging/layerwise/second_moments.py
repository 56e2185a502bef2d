r"""Second moments of a layer's inputs as they travel: whole, or of low rank beside a diagonal.

A Gram matrix of d inputs, a one appended, is (d + 1)(d + 2) / 2 numbers. Where that is too many,
means m and mean squares travel, and r factors f of the covariance, its leading eigenvectors times
the roots of their eigenvalues, so that

.. math:: \mathbb E\, z z^\top \approx m m^\top + \sum_k f_k f_k^\top + \mathrm{diag}

with the diagonal that makes mean squares exact: (2 + r) d numbers. Without any factor inputs are
taken as uncorrelated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dimat.merging.layerwise.products import mirror

_SLACK = 1e-3  # of what moments keep, for rounding


def num_whole(shape: Sequence[int]) -> int:
    """Numbers of whole Gram matrices of a shape, (groups, inputs + 1, …).

    >>> num_whole((2, 3, 3))
    12
    """
    return shape[0] * shape[1] * (shape[1] + 1) // 2


def pack(gram: Tensor, numbers: float) -> Tensor:
    """The moments of a Gram matrix, in no more than so many numbers, or the fewest that there are.

    Args:
        gram: (groups, inputs + 1, inputs + 1) float64, the ones last.
        numbers: Numbers that may travel.

    Returns:
        (groups, triangle) upper triangles, or (groups, 2 + rank, inputs): means, mean squares, and
        factors of the covariance.
    """
    groups, size, _ = gram.shape
    if num_whole(gram.shape) <= numbers:
        return torch.cat([gram[:, i, i:] for i in range(size)], 1)
    inputs = size - 1
    rank = min(inputs, max(0, int(numbers // (groups * inputs)) - 2))
    mean, squares = gram[:, -1, :-1], gram.diagonal(dim1=1, dim2=2)[:, :-1]
    values, vectors = torch.linalg.eigh(gram[:, :-1, :-1] - mean[:, :, None] * mean[:, None, :])
    leading = slice(inputs - rank, None)
    factors = (vectors[:, :, leading] * values[:, None, leading].clamp_min(0).sqrt()).mT
    room = (squares - mean.square()).clamp_min(0)  # of a dead input it is 0, of its factors nearly
    found = factors.square().sum(1).clamp_min(torch.finfo(gram.dtype).tiny)
    factors = factors * (room / found).clamp_max(1).sqrt()[:, None]
    return torch.cat([mean[:, None], squares[:, None], factors], 1)


def unpack(moments: Tensor) -> Tensor:
    """(groups, inputs + 1, inputs + 1) Gram matrices of moments as :func:`pack` gives them."""
    if moments.dim() == 2:
        size = int((8 * moments.shape[1] + 1) ** 0.5 - 1) // 2
        full = moments.new_empty(len(moments), size, size)
        for i, row in enumerate(torch.split(moments, list(range(size, 0, -1)), 1)):
            full[:, i, i:] = row
        return mirror(full)
    mean, squares, factors = moments[:, 0], moments[:, 1], moments[:, 2:]
    rest = squares - mean.square() - factors.square().sum(1)
    covariance = factors.mT @ factors + torch.diag_embed(rest.clamp_min(0))
    z = torch.cat([mean, torch.ones_like(mean[:, :1])], 1)
    full = z[:, :, None] * z[:, None, :]
    full[:, :-1, :-1] += covariance
    return full


def are_moments(moments: Tensor) -> bool:
    """Whether finite numbers can be the moments of any inputs: positive semidefinite, ones last.

    Entries that fit in pairs are not enough: matrices that are not semidefinite can add up to a
    singular one, whose fit has weights of any size.

    Args:
        moments: As :func:`pack` gives them.
    """
    if moments.dim() == 3:
        least = moments[:, 0].square() + moments[:, 2:].square().sum(1)
        return bool((least <= moments[:, 1] * (1 + _SLACK) + 1e-12).all())
    full = unpack(moments.double())
    squares = full.diagonal(dim1=1, dim2=2)
    if bool((squares < 0).any()) or bool((full[:, -1, -1] - 1).abs().max() > _SLACK):
        return False
    _, failed = torch.linalg.cholesky_ex(full + torch.diag_embed(_SLACK * squares + 1e-12))
    return not bool(failed.any())


def are_shares(shares: Tensor) -> bool:
    """Whether finite numbers can be the shares of what is looked up: none negative, one in all.

    Args:
        shares: (rows,) of an embedding.
    """
    return bool((shares >= 0).all()) and abs(float(shares.double().sum()) - 1) < _SLACK


def in_order(moments: Tensor, group: Tensor, place: Tensor) -> Tensor:
    """The moments of inputs in another order.

    Args:
        moments: As :func:`pack` gives them.
        group: (groups,) the group that comes to each place.
        place: (groups, inputs) the input of that group that comes to each place.
    """
    own = moments[group]
    if moments.dim() == 3:
        return own.gather(2, place[:, None].expand_as(own))
    full = unpack(own)
    order = torch.cat([place, torch.full_like(place[:, :1], place.shape[1])], 1)
    rows = full.gather(1, order[:, :, None].expand_as(full))
    moved = rows.gather(2, order[:, None, :].expand_as(full))
    return pack(moved, float("inf"))
