"""Continuous symmetries of a model: groups of matrices on units, their elements, their action."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.graph.trace import Trace
from dimat.state import State
from dimat.symmetry.labels.units import Ints
from dimat.symmetry.symmetry import Symmetry
from dimat.text import brief, counted

Act = Callable[[Tensor], Tensor]
# The matrices M of a group: any invertible one; orthogonal ones; orthogonal ones that keep the
# vector of ones (LayerNorm subtracts the mean); rotations of a plane with a scale, which commute
# with the rotations of rotary embeddings; diagonal ones with positive entries.
Kind = Literal["linear", "orthogonal", "orthogonal with mean", "rotary", "scaling"]
KINDS: tuple[Kind, ...] = ("linear", "orthogonal", "orthogonal with mean", "rotary", "scaling")


@dataclass(frozen=True, eq=False)
class Member:
    r"""A state entry on which the units of a group lie.

    Args:
        key: State key of the entry.
        axes: The axes that the units lie on together, in order.
        index: (cells * n, places) positions along those axes, flattened, units in cell order;
            several places where a unit has more than one entry there.
        role: 1 if the entry writes the units, which M multiplies; -1 if it reads them, and
            :math:`M^{-\top}` does.
    """

    key: str
    axes: tuple[int, ...]
    index: Ints
    role: int


@dataclass(frozen=True)
class ContinuousGroup:
    r"""Units between which nothing nonlinear stands, so that matrices act on them.

    Along the units of a member the entries become :math:`M x` where the member *writes* the units,
    and :math:`M^{-\top} x` where it *reads* them, such as :math:`(B M^{-1})(M A) = B A`.

    Args:
        name: Name of the permutation group of these units; of a gain, or of planes under rotary
            embeddings, the key of the entry that writes them.
        kind: The kind of matrices.
        size: Number n of units that a matrix mixes.
        cells: Number of such sets, each with a matrix of its own (heads).
        members: The state entries on which the units lie.
    """

    name: str
    kind: Kind
    size: int
    cells: int
    members: tuple[Member, ...]

    __repr__ = brief


@dataclass(frozen=True)
class Transformation:
    """An element of a continuous symmetry.

    Args:
        matrices: For every group a float64 array (cells, n, n).
        digest: Digest of the symmetry that it is an element of.
    """

    matrices: Mapping[str, Tensor]
    digest: str

    def __repr__(self) -> str:
        """The number of matrices."""
        count = sum(len(own) for own in self.matrices.values())
        return f"Transformation({counted(len(self.matrices), 'group')}, {count} matrices)"


@dataclass(frozen=True)
class ContinuousSymmetry:
    r"""Matrices on a model's units that leave its function in eval mode unchanged.

    An orthogonal group of a normed stream acts after the norms' gains are *folded*:
    :math:`W(\gamma \odot y + \beta)` is :math:`W\gamma\,(y + \beta / \gamma)`. An element folds
    them, acts, and unfolds them, so that gains keep their values.

    Sound, not complete: what could not be proved is left out. Random masks of dropout are not
    moved along by a matrix: the symmetry is that of eval mode.

    Args:
        permutations: The permutation symmetry of the model, which knows where units lie.
        groups: The groups, each proved by execution.
        gains: For each gain of a norm that is folded, the diagonal matrices on the norm's result.
        folded: For each group the names of the gains that are folded before it acts.
    """

    permutations: Symmetry
    groups: tuple[ContinuousGroup, ...]
    gains: tuple[ContinuousGroup, ...]
    folded: Mapping[str, tuple[str, ...]]

    def __repr__(self) -> str:
        """The number of groups of each kind."""
        kinds = {kind: sum(g.kind == kind for g in self.groups) for kind in KINDS}
        said = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
        return f"ContinuousSymmetry({said or 'no groups'})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole content: equal digests mean the same symmetry."""
        content = [
            [
                g.name,
                g.kind,
                sorted([m.key, [*m.axes], m.index.tolist(), m.role] for m in g.members),
            ]
            for g in (*self.groups, *self.gains)
        ]
        folded = {name: list(own) for name, own in self.folded.items()}
        text = json.dumps([content, folded, self.permutations.digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def only(self, *kinds: Kind) -> ContinuousSymmetry:
        """The symmetry with the groups of some kinds alone."""
        return self._with(g for g in self.groups if g.kind in kinds)

    def within(self, keys: Collection[str]) -> ContinuousSymmetry:
        """The symmetry with those groups alone that change none but some entries.

        Args:
            keys: State keys of the entries that may change.
        """
        bad = {g.name for g in self.gains if not _members(g) <= {*keys}}
        return self._with(
            g
            for g in self.groups
            if _members(g) <= {*keys} and not bad & {*self.folded.get(g.name, ())}
        )

    def _with(self, kept: Iterable[ContinuousGroup]) -> ContinuousSymmetry:
        groups = tuple(kept)
        folded = {g.name: self.folded[g.name] for g in groups if g.name in self.folded}
        used = {name for own in folded.values() for name in own}
        gains = tuple(g for g in self.gains if g.name in used)
        return ContinuousSymmetry(self.permutations, groups, gains, folded)

    # --- elements -------------------------------------------------------------------------------

    def identity(self) -> Transformation:
        """The element that changes nothing."""
        return Transformation({g.name: _eyes(g) for g in self.groups}, self.digest)

    def random(self, generator: torch.Generator) -> Transformation:
        """A random element: uniform among orthogonal matrices, well conditioned among others."""
        drawn = {g.name: random_matrices(g.kind, g.cells, g.size, generator) for g in self.groups}
        return Transformation(drawn, self.digest)

    def compose(self, p: Transformation, q: Transformation) -> Transformation:
        """The element "first ``q``, then ``p``"."""
        self._check(p)
        self._check(q)
        return Transformation({n: own @ q.matrices[n] for n, own in p.matrices.items()}, p.digest)

    def inverse(self, p: Transformation) -> Transformation:
        """The element that undoes ``p``."""
        self._check(p)
        inverses = {name: torch.linalg.inv(own) for name, own in p.matrices.items()}
        return Transformation(inverses, p.digest)

    # --- action ---------------------------------------------------------------------------------

    def apply(self, p: Transformation, state: Mapping[str, Tensor]) -> State:
        """A new state, in whose units ``p`` acted; the model computes the same function with it.

        Args:
            p: An element of this symmetry.
            state: A state of the model.

        Raises:
            StructureError: If ``p`` is of another symmetry, or a gain is zero somewhere.
        """
        self._check(p)
        gains = self.gains_of(state)
        acted = self.act(p, self.with_gains(state, None))
        return {k: x.to(state[k].dtype) for k, x in self.with_gains(acted, gains).items()}

    def act(self, p: Transformation, folded: Mapping[str, Tensor]) -> State:
        """The action on a state whose gains are folded, in float64 where entries are moved."""
        acted = dict(folded)
        for group in self.groups:
            self._multiply(acted, group, p.matrices[group.name])
        return acted

    def gains_of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of the gains that are folded."""
        return {gain.name: state[gain.name].double() for gain in self.gains}

    def with_gains(self, state: Mapping[str, Tensor], gains: Mapping[str, Tensor] | None) -> State:
        """The same function with other gains, in float64 where entries are changed.

        Args:
            state: A state of the model.
            gains: The gains that it shall have; None: ones.

        Raises:
            StructureError: If a gain is zero somewhere, before or after.
        """
        changed = dict(state)
        for gain in self.gains:
            ours = changed[gain.name].double()
            wanted = torch.ones_like(ours) if gains is None else gains[gain.name].double()
            if not bool((ours.abs() > 0).all() & (wanted.abs() > 0).all()):
                raise StructureError(f"'{gain.name}' is zero somewhere: it cannot be folded")
            ratio = self._ordered(gain, wanted / ours)
            self._multiply(changed, gain, torch.diag_embed(ratio))
            changed[gain.name] = wanted
        return changed

    def _ordered(self, gain: ContinuousGroup, values: Tensor) -> Tensor:
        """(cells, n) values of a gain's entry in the order of the units."""
        (own,) = (m for m in gain.members if m.key == gain.name)
        return values[torch.from_numpy(own.index[:, 0]).to(values.device)].reshape(
            gain.cells, gain.size
        )

    def _multiply(self, state: State, group: ContinuousGroup, matrices: Tensor) -> None:
        """Replace the members of a group by what matrices make of them."""
        dual = torch.linalg.inv(matrices).mT
        for own in group.members:
            by = matrices if own.role > 0 else dual
            state[own.key] = multiplied(widened_64(state[own.key]), own.axes, own.index, by)

    def _check(self, p: Transformation) -> None:
        if p.digest != self.digest:
            raise StructureError(
                f"a transformation of another symmetry: its digest is {p.digest[:12]}…, this "
                f"symmetry has {self.digest[:12]}…"
            )


def _members(group: ContinuousGroup) -> set[str]:
    """State keys of a group's members."""
    return {own.key for own in group.members}


def with_aliases(trace: Trace, members: Iterable[Member]) -> tuple[Member, ...]:
    """Members, and their like for every state key that shares the storage of one."""
    own = tuple(members)
    tied = (replace(m, key=k) for k, first in trace.aliases.items() for m in own if m.key == first)
    return (*own, *tied)


def widened_64(value: Tensor) -> Tensor:
    """A real tensor in float64."""
    return value.detach().double()


def multiplied(value: Tensor, order: tuple[int, ...], places: Ints, matrices: Tensor) -> Tensor:
    """A tensor whose entries along the units of a group are multiplied by matrices.

    Args:
        value: Any tensor in float64; not changed.
        order: The axes that the units lie on together.
        places: (cells * n, places) positions of the units along those axes, flattened.
        matrices: (cells, n, n) in float64.
    """
    cells, n, _ = matrices.shape
    own = matrices.to(value.device)
    return mapped(
        value, order, places, (cells, n), lambda x: torch.einsum("cij,...cjp->...cip", own, x)
    )


def mapped(
    value: Tensor, order: tuple[int, ...], places: Ints, shape: tuple[int, int], act: Act
) -> Tensor:
    """A tensor with another value of its entries along the units of a group.

    Args:
        value: Any tensor in float64; not changed.
        order: The axes that the units lie on together.
        places: (cells * n, places) positions of the units along those axes, flattened.
        shape: Number of cells, and of units n in each.
        act: A function of (…, cells, n, places) entries, of that shape.
    """
    last = tuple(range(-len(order), 0))
    moved = value.movedim(order, last)
    flat = moved.flatten(-len(order))
    units = (*flat.shape[:-1], *shape, places.shape[1])
    if np.array_equal(places.ravel(), np.arange(flat.shape[-1])):  # all of them, in order
        made = act(flat.reshape(units)).reshape(flat.shape)
    else:
        index = torch.from_numpy(places.ravel().copy()).to(value.device)
        made = flat.clone()
        made[..., index] = act(flat[..., index].reshape(units)).reshape(*flat.shape[:-1], -1)
    made_of: Tensor = made.reshape(moved.shape).movedim(last, order)
    return made_of


def random_matrices(kind: Kind, cells: int, n: int, generator: torch.Generator) -> Tensor:
    """(cells, n, n) random matrices of a kind in float64, of condition at most some ten."""

    def orthogonal(size: int) -> Tensor:
        drawn = torch.randn(cells, size, size, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(drawn)
        signed: Tensor = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
        return signed

    def scales() -> Tensor:
        return 3.0 ** (2 * torch.rand(cells, n, generator=generator, dtype=torch.float64) - 1)

    if kind == "scaling":
        return torch.diag_embed(scales())
    if kind == "rotary":
        turns = torch.randn(cells, 2, generator=generator, dtype=torch.float64)
        sized = 3.0 ** (2 * torch.rand(cells, 1, generator=generator, dtype=torch.float64) - 1)
        return commuting(sized * turns / turns.norm(dim=1, keepdim=True))
    if kind == "linear":
        return orthogonal(n) @ torch.diag_embed(scales()) @ orthogonal(n)
    return orthogonal(n) if kind == "orthogonal" else lifted(orthogonal(n - 1), n)


def commuting(numbers: Tensor) -> Tensor:
    """(cells, 2, 2) matrices that multiply a plane by complex numbers, given as (cells, 2)."""
    a, b = numbers.unbind(-1)
    return torch.stack((torch.stack((a, -b), -1), torch.stack((b, a), -1)), -2)


def lifted(matrices: Tensor, n: int) -> Tensor:
    """(cells, n, n) matrices that keep the ones, and act as the given ones on what is beside."""
    basis = mean_free_basis(n)
    along: Tensor = torch.full((n, n), 1 / n, dtype=torch.float64)
    return along + basis @ matrices @ basis.T


def mean_free_basis(n: int) -> Tensor:
    """(n, n - 1) orthonormal columns, each of mean 0, in float64."""
    full = torch.eye(n, dtype=torch.float64)
    full[:, 0] = 1.0
    basis: Tensor = torch.linalg.qr(full)[0][:, 1:]
    return basis


def _eyes(group: ContinuousGroup) -> Tensor:
    return torch.eye(group.size, dtype=torch.float64).repeat(group.cells, 1, 1)
