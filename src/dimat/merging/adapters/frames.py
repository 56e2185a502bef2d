"""Frames of low-rank factors: the rotation of one adapter onto another, the own frame of a product.

``B A`` and ``(B R)(R⁻¹ A)`` are one product in two frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dimat.merging.adapters.factors import Factors

_LEAST = 0.1  # smallest share of the own A's norm that a direction of the merged row space gets


def rotation(first: Factors, other: Factors) -> Tensor | None:
    """The rotation R after which b R and Rᵀ a are nearest to the factors of another adapter.

    Nearest by the product of the two distances, of three solutions of the orthogonal Procrustes
    problem: of A, of B, and of both at one scale. (To go on from there with each over its distance
    wins nothing: errors of 0.427 in place of 0.436 where agents drew A apart, else the same.)

    Args:
        first: The adapter that is turned to.
        other: The adapter to turn, of the same rank.

    Returns:
        (r, r), orthogonal; None if no rotation brings it nearer than it is.
    """
    by_b, by_a = other.b.T @ first.b, other.a @ first.a.T
    best, least = None, _apart(first, other)
    size_a, size_b = (
        float(x.square().sum() + y.square().sum()) for x, y in zip(first, other, strict=True)
    )
    for moments in (by_a, by_b, by_b * size_a + by_a * size_b):
        turn = _nearest(moments)
        apart = _apart(first, Factors(turn.T @ other.a, other.b @ turn))
        if apart < least:
            best, least = turn, apart
    return best


def _apart(first: Factors, other: Factors) -> float:
    """The product of the distances of the two A, and of the two B."""
    return float((first.a - other.a).norm() * (first.b - other.b).norm())


def _nearest(moments: Tensor) -> Tensor:
    """The orthogonal matrix R that has the largest inner product with some moments."""
    u, _, v = torch.linalg.svd(moments)
    turn: Tensor = u @ v
    return turn


def frame(own: Factors, outputs: Tensor, inputs: Tensor) -> Factors:
    r"""The factors of a product whose A is the own one, projected on the row space of the product.

    With :math:`G = A V` for the directions V, :math:`A' = G V^\top` and :math:`B' = O G^{+}`.
    Singular values of G below a tenth of the own A's norm are raised to it: B would grow by their
    inverse. V is filled up with directions of the own A.

    Args:
        own: The own adapter, of rank r.
        outputs: (outputs, q) O of the product O Vᵀ, q <= r.
        inputs: (inputs, q) V of the product, with orthonormal columns.
    """
    rest = own.a - (own.a @ inputs) @ inputs.T
    _, sizes, more = torch.linalg.svd(rest, full_matrices=False)
    norm = float(torch.linalg.matrix_norm(own.a, 2))
    unused = more[: own.rank - inputs.shape[1]]
    unused = unused[sizes[: len(unused)] > 1e-7 * norm]  # what float32 rounds is no direction
    v = torch.cat([inputs, unused.T], 1)
    o = torch.cat([outputs, outputs.new_zeros(len(outputs), len(unused))], 1)
    p, d, q = torch.linalg.svd(own.a @ v, full_matrices=False)
    least = _LEAST * norm or float(outputs.norm()) ** 0.5 or 1.0
    d = d.clamp_min(least)
    return Factors((p * d) @ q @ v.T, ((o @ q.T) / d) @ p.T)
