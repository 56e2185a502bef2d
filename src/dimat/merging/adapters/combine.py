r"""Ways to combine low-rank adapters, for one pair of factors of each; all in float64.

An adapter adds :math:`B_j A_j` to a frozen weight, with :math:`A_j` (r, inputs) and :math:`B_j`
(outputs, r). Its factors are known up to an invertible matrix only, :math:`B A = (B R)(R^{-1} A)`,
and agents that train apart come to stand in different frames R; what should be averaged is
:math:`\bar\Delta = \sum_j w_j B_j A_j`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.merging.adapters.factors import Factors
from dimat.merging.adapters.frames import frame, rotation

_NOISE = 1e-7  # relative to the largest singular value: what float32 rounds


class Way(Protocol):
    """A way to combine adapters of one module."""

    def __call__(self, adapters: Sequence[Factors], weights: Sequence[float]) -> Factors:
        """The factors of the combined adapter.

        Args:
            adapters: ``n >= 1`` adapters of one module; the first is the agent's own.
            weights: One weight per adapter, >= 0, summing to 1.
        """
        ...


def naive(adapters: Sequence[Factors], weights: Sequence[float]) -> Factors:
    r"""The averages of the factors, :math:`\sum_j w_j A_j` and :math:`\sum_j w_j B_j`.

    Their product is not :math:`\bar\Delta`: what is missing is the covariance of the factors,
    :math:`\sum_j w_j (B_j - \bar B)(A_j - \bar A)`. Lower ranks are filled up with zeros.

    References:
        Zhang et al., "Towards Building the Federated GPT: Federated Instruction Tuning" (FedIT),
        ICASSP 2024.
    """
    rank = max(own.rank for own in adapters)
    padded = [_padded(own, rank) for own in adapters]
    pairs = list(zip(weights, padded, strict=True))
    a = torch.stack([w * own.a for w, own in pairs]).sum(0)
    return Factors(a, torch.stack([w * own.b for w, own in pairs]).sum(0))


def aligned(adapters: Sequence[Factors], weights: Sequence[float]) -> Factors:
    r"""The averages of the factors, each other adapter rotated onto the first.

    .. math::
        R_j = \arg\min_{R^\top R = I} \lVert B_1 - B_j R \rVert \cdot \lVert A_1 - R^\top A_j \rVert

    The product of the distances bounds the covariance that averages of factors miss: where either
    factor is alike they are exact. Candidates for R are solutions of the orthogonal Procrustes
    problem, by the cross moments :math:`A_j A_1^\top`, :math:`B_j^\top B_1` and the sum of both.
    Rotated copies of one adapter combine to its product.

    Rotations are enough as training moves the factors but hardly their scales. With frames of all
    GL(r), from balanced SVDs, agents whose product is still near zero lose their A: averages are
    then off by 80 %, by 8 % with rotations (factors of rank 8, one of five agents has trained).

    References:
        FedRot-LoRA, which rotates by the factors' cross moments; Schönemann, "A Generalized
        Solution of the Orthogonal Procrustes Problem", Psychometrika 1966.
    """
    rank = max(own.rank for own in adapters)
    first, *others = [_padded(own, rank) for own in adapters]
    turned = [first]
    for other in others:
        turn = rotation(first, other)
        turned.append(other if turn is None else Factors(turn.T @ other.a, other.b @ turn))
    return naive(turned, weights)


def product(
    adapters: Sequence[Factors], weights: Sequence[float], rank: int | None = None
) -> Factors:
    r"""The best factors of :math:`\bar\Delta` of a rank, by a truncated SVD, in the own frame.

    With QR factors of :math:`[w_1 B_1 \dots w_k B_k] = Q_B R_B` and :math:`[A_1; \dots; A_k]^\top =
    Q_A R_A`, the SVD of the small :math:`R_B R_A^\top` is that of :math:`\bar\Delta`, which is
    never formed. Of the factors of one product those are taken whose A is the own one, projected on
    the merged row space: copies keep their factors, and an optimizer's moments their meaning, as
    far as that can be. Directions that nobody uses yet stay the own ones, so that a B of zeros
    trains on.

    Args:
        adapters: ``n >= 1`` adapters, of any ranks; the first is the agent's own.
        weights: One weight per adapter, >= 0, summing to 1.
        rank: The rank, >= 1; None: the first adapter's. With another rank than that there is no
            own frame, and the factors are balanced.

    References:
        Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and
        Client Resources" (FlexLoRA), NeurIPS 2024; what is cut off is what FedEx-LoRA (Singhal et
        al., ACL 2025) adds to the base; Eckart and Young, Psychometrika 1936.
    """
    own = adapters[0]
    wanted = own.rank if rank is None else rank
    b, a = _joined(adapters, weights)
    left, small_b = torch.linalg.qr(b)
    right, small_a = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(small_b @ small_a.T)
    count = min(wanted, int((s > _NOISE * s[0]).sum()))
    outputs = left @ (u[:, :count] * s[:count])
    inputs = right @ v[:count].T
    if wanted == own.rank:
        return frame(own, outputs, inputs)
    root = s[:count].sqrt()
    return _padded(Factors(root[:, None] * inputs.T, outputs / root), wanted)


def stacked(adapters: Sequence[Factors], weights: Sequence[float]) -> Factors:
    r"""The exact :math:`\bar\Delta`, of a rank that is the sum of the ranks.

    .. math:: A = [\sqrt{w_1} A_1; \dots; \sqrt{w_k} A_k], \quad
        B = [\sqrt{w_1} B_1 \dots \sqrt{w_k} B_k]

    References:
        Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous
        Low-Rank Adaptations", NeurIPS 2024.
    """
    roots = [math.sqrt(weight) for weight in weights]
    pairs = list(zip(roots, adapters, strict=True))
    a = torch.cat([w * own.a for w, own in pairs])
    return Factors(a, torch.cat([w * own.b for w, own in pairs], 1))


def frozen_a(adapters: Sequence[Factors], weights: Sequence[float]) -> Factors:
    r"""The average of the B, exact as all have one A: :math:`(\sum_j w_j B_j) A`.

    Raises:
        StructureError: If the A differ.

    References:
        Sun et al., "Improving LoRA in Privacy-preserving Federated Learning" (FFA-LoRA), ICLR 2024.
    """
    first, *others = adapters
    for number, other in enumerate(others, start=1):
        if not torch.equal(first.a, other.a):
            raise StructureError(
                f"adapters 0 and {number} have different factors A, and frozen-a averages B alone: "
                "use aligned, product or stacked"
            )
    return Factors(first.a, naive(adapters, weights).b)


WAYS: Mapping[str, Way] = {
    "naive": naive,
    "aligned": aligned,
    "product": product,
    "stacked": stacked,
    "frozen-a": frozen_a,
}


def product_error(
    merged: Factors, adapters: Sequence[Factors], weights: Sequence[float]
) -> tuple[float, float]:
    r"""The norms of :math:`B A - \bar\Delta` and :math:`\bar\Delta`, Frobenius's.

    Args:
        merged: The factors of the product.
        adapters: ``n >= 1`` adapters.
        weights: One weight per adapter, >= 0, summing to 1.
    """
    b, a = _joined(adapters, weights)
    apart = _norm(torch.cat([merged.b, -b], 1), torch.cat([merged.a, a]))
    return apart, _norm(b, a)


def _joined(adapters: Sequence[Factors], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Factors of the weighted mean of products, of a rank that is the sum of the ranks."""
    pairs = list(zip(weights, adapters, strict=True))
    return torch.cat([w * own.b for w, own in pairs], 1), torch.cat([own.a for own in adapters])


def _norm(b: Tensor, a: Tensor) -> float:
    """Frobenius norm of a product of thin factors, which is not formed."""
    small = torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T
    return float(torch.linalg.matrix_norm(small))


def _padded(own: Factors, rank: int) -> Factors:
    """The same product with factors of a higher rank, filled up with zeros."""
    more = rank - own.rank
    if not more:
        return own
    a, b = own
    return Factors(
        torch.cat([a, a.new_zeros(more, a.shape[1])]), torch.cat([b, b.new_zeros(len(b), more)], 1)
    )
