"""Alignment by matrices: orthogonal Procrustes on the weights, group by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.graph.trace import flatten_inputs
from dimat.state import State
from dimat.symmetry import Analysis
from dimat.symmetry.continuous.find import continuous_symmetry
from dimat.symmetry.continuous.group import (
    KINDS,
    ContinuousGroup,
    ContinuousSymmetry,
    Member,
    Transformation,
    commuting,
    lifted,
    mean_free_basis,
)

MAX_SWEEPS = 100  # a bound, not a budget: every step gains, so the sweeps end by themselves
GAIN = 1e-7  # of the product of both norms: less does not show in a merge
_FLOOR = 1e-8  # of the mean square, added to all directions: one that nobody uses is not inflated
_PULL = 1e-9  # of the largest moment, towards the identity: what no weight tells is left as it is


@dataclass(frozen=True)
class Aligned:
    """A state whose units matrices brought to those of another.

    Args:
        state: The state, with the other's gains, in the dtypes that it had.
        transformation: The matrices, which act where gains are folded.
        cosine: Cosine of both states' moved entries, gains folded, before and after.
    """

    state: State
    transformation: Transformation
    cosine: tuple[float, float]


def procrustes(
    symmetry: ContinuousSymmetry, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> Aligned:
    r"""The state ``theirs`` after the matrices that bring it nearest to ``ours``.

    .. math:: \max_M \sum_k \langle \theta^{(k)}, (M \theta')^{(k)} \rangle

    over orthogonal matrices of every group, group by group with all others held, until no sweep
    gains. For one group the maximum is the orthogonal Procrustes solution: with
    :math:`C = \sum_k \theta^{(k)} \theta'^{(k)\top} = U S V^\top` it is
    :math:`M = U V^\top`. Units on which any invertible matrix acts are balanced in both states
    before (:func:`balancing`), so that an orthogonal matrix is all that is left between two copies.
    Positive scales are those at which the ratio of what writes a unit to what reads it is as in
    ``ours``.

    Gains of norms are folded before, in both; the result has those of ``ours``, so that both states
    can be averaged as they are. Their units should be in one order by then: a sweep climbs to the
    next maximum only.

    Args:
        symmetry: The model's continuous symmetry.
        ours: The state that is held; not changed.
        theirs: The other; not changed.

    Raises:
        StructureError: If a gain is zero somewhere.

    References:
        Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966.
    """
    gains = symmetry.gains_of(ours)
    held, moving = symmetry.with_gains(ours, None), symmetry.with_gains(theirs, None)
    total = symmetry.identity()
    before = _cosine(symmetry, held, moving)
    reached = before
    for _ in range(MAX_SWEEPS):
        for group in symmetry.groups:
            step = Transformation(
                {**symmetry.identity().matrices, group.name: _best(group, held, moving)},
                symmetry.digest,
            )
            moving, total = symmetry.act(step, moving), symmetry.compose(step, total)
        last, reached = reached, _cosine(symmetry, held, moving)
        if abs(reached - last) <= GAIN:
            break
    aligned = symmetry.with_gains(moving, gains)
    rounded = {key: x.to(theirs[key].dtype) for key, x in aligned.items()}
    return Aligned(rounded, total, (before, reached))


def turned_to(
    analysis: Analysis,
    ours: State,
    theirs: Mapping[int, State],
    batches: Sequence[Any],
) -> dict[int, State]:
    """States of neighbors after the matrices that bring each nearest to ours.

    A state with a gain of zero is left as it is: its norm cannot be folded.

    Args:
        analysis: Analysis of the model.
        ours: The state that is held.
        theirs: States in its unit order, by agent.
        batches: Inputs, each a tensor or a tuple of the model's arguments, for the proof.
    """
    first = batches[0]
    inputs = flatten_inputs(first if isinstance(first, tuple) else (first,))
    whole = {**analysis.trace.frozen, **ours}  # ours may be a part: what agents exchange
    symmetry = continuous_symmetry(analysis, whole, inputs).within(ours)
    found = {}
    for j, state in theirs.items():
        try:
            found[j] = procrustes(symmetry, ours, state).state
        except StructureError:
            found[j] = dict(state)
    return found


def rotated_note(symmetry: ContinuousSymmetry, found: Sequence[Aligned]) -> str:
    """A sentence on what matrices did to some states."""
    if not symmetry.groups:
        return "no matrices act on the units of this model: permutations are all of its symmetry"
    kinds = [f"{len(symmetry.only(kind).groups)} {kind}" for kind in KINDS]
    said = ", ".join(kind for kind in kinds if not kind.startswith("0 "))
    cosines = "; ".join(f"{own.cosine[0]:.2f} → {own.cosine[1]:.2f}" for own in found)
    return (
        f"aligned by matrices too (groups: {said}); cosine of the weights to the first: {cosines}"
    )


def _best(
    group: ContinuousGroup,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
) -> Tensor:
    """(cells, n, n) matrices of the group that bring theirs nearest to ours."""
    if group.kind == "scaling":
        return _scales(group, ours, theirs)
    writing, reading = _moments(group, ours, theirs)
    if group.kind == "orthogonal":
        return polar(writing + reading)
    if group.kind == "orthogonal with mean":
        basis = mean_free_basis(group.size)
        return lifted(polar(basis.T @ (writing + reading) @ basis), group.size)
    own = balancing(*_moments(group, ours, ours))
    other = balancing(*_moments(group, theirs, theirs))
    back = torch.linalg.inv(own)  # symmetric, as are all of these
    between = own @ writing @ other + back @ reading @ torch.linalg.inv(other)
    turned: Tensor = back @ polar(between) @ other
    return turned


def _moments(
    group: ContinuousGroup,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """(cells, n, n) inner products of our units with theirs: of what writes and of what reads."""
    found = {role: torch.zeros(group.cells, group.size, group.size).double() for role in (1, -1)}
    for own in group.members:
        x, y = rows(ours[own.key], own, group), rows(theirs[own.key], own, group)
        found[own.role] += (x @ y.mT).cpu()  # matrices are small, and decomposed there
    if group.kind == "rotary":
        found = {role: rotary_part(x) for role, x in found.items()}
    return found[1], found[-1]


def balancing(writing: Tensor, reading: Tensor) -> Tensor:
    r"""(…, n, n) the symmetric matrices after which what writes units weighs as what reads them.

    .. math:: S W S = S^{-1} R S^{-1}, \quad
        S^2 = W^{-1/2} (W^{1/2} R W^{1/2})^{1/2} W^{-1/2}

    Balanced factors of one product differ by an orthogonal matrix alone.

    Args:
        writing: Gram matrices W of the units in what writes them.
        reading: Gram matrices R of the units in what reads them.
    """
    n = writing.shape[-1]
    eye = torch.eye(n, dtype=writing.dtype, device=writing.device)
    sizes = [x.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] for x in (writing, reading)]
    if any(bool((size <= 0).any()) for size in sizes):
        return eye.expand_as(writing)  # of LoRA at its start: one side is zero
    w, r = (x / size + _FLOOR * eye for x, size in zip((writing, reading), sizes, strict=True))
    root = _power(w, 0.5)
    inner = _power(root @ r @ root, 0.5)
    inverse = _power(w, -0.5)
    square = inverse @ inner @ inverse
    return _power(square, 0.5) * (sizes[1] / sizes[0]) ** 0.25


def _power(matrices: Tensor, exponent: float) -> Tensor:
    """A power of symmetric positive definite matrices."""
    values, vectors = torch.linalg.eigh((matrices + matrices.mT) / 2)
    floor = 1e-15 * values.amax(-1, keepdim=True)
    power: Tensor = vectors @ torch.diag_embed(values.maximum(floor) ** exponent) @ vectors.mT
    return power


def polar(moments: Tensor) -> Tensor:
    """(…, n, n) the orthogonal matrices whose inner product with some moments is largest."""
    n = moments.shape[-1]
    largest = torch.linalg.matrix_norm(moments, ord="fro")[..., None, None]
    pulled = moments + _PULL * largest * torch.eye(n, dtype=moments.dtype)
    u, _, vh = torch.linalg.svd(pulled)
    nearest: Tensor = u @ vh
    return nearest


def rotary_part(moments: Tensor) -> Tensor:
    """(…, 2, 2) the part of matrices that commutes with the rotations of the plane."""
    along = (moments[..., 0, 0] + moments[..., 1, 1]) / 2
    across = (moments[..., 1, 0] - moments[..., 0, 1]) / 2
    return commuting(torch.stack((along, across), -1))


def _scales(
    group: ContinuousGroup,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
) -> Tensor:
    """Diagonal matrices after which writers and readers are in proportion as in ours."""

    def log_ratio(state: Mapping[str, Tensor]) -> Tensor:
        squares = {1: torch.zeros(()), -1: torch.zeros(())}
        for own in group.members:
            square = rows(state[own.key], own, group).square().sum(-1)
            squares[own.role] = squares[own.role] + square.cpu()
        return 0.25 * (squares[1].log() - squares[-1].log())

    scales = (log_ratio(ours) - log_ratio(theirs)).exp()
    return torch.diag_embed(torch.where(scales.isfinite() & (scales > 0), scales, 1.0))


def rows(value: Tensor, own: Member, group: ContinuousGroup) -> Tensor:
    """(cells, n, entries of a unit) of a state entry in float64."""
    moved = value.double().movedim(own.axes, tuple(range(len(own.axes))))
    flat = moved.flatten(0, len(own.axes) - 1)
    index = torch.from_numpy(own.index.copy()).to(value.device)
    return flat[index.reshape(-1)].reshape(group.cells, group.size, -1)


def _cosine(
    symmetry: ContinuousSymmetry, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> float:
    """Cosine of the entries that are moved."""
    keys = sorted({own.key for group in symmetry.groups for own in group.members})
    products = [_products(ours[key].double(), theirs[key].double()) for key in keys]
    inner, one, other = (
        (sum(column) for column in zip(*products, strict=True)) if keys else (1, 1, 1)
    )
    return float(inner / max((one * other) ** 0.5, 1e-300))


def _products(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    return float((x * y).sum()), float(x.square().sum()), float(y.square().sum())
