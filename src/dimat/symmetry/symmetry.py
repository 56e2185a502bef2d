"""The permutation symmetry of a model: its groups, its elements, and their action on states."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimat.errors import StructureError, check_kind, nearest_key
from dimat.state import State, tensors_of
from dimat.symmetry.labels.positions import (
    Memo,
    Sources,
    along_axes,
    moving_share,
    orders,
    sources,
    take,
)
from dimat.symmetry.labels.structure import Structure, UnitFamily, structure_of
from dimat.symmetry.labels.units import FIXED, Ints, Label, Labels, Pin, Special, along
from dimat.symmetry.permutation import Group, Permutation
from dimat.text import counted


@dataclass(frozen=True)
class Symmetry:
    """Every permutation of a model's units that leaves its function unchanged, as far as known.

    Sound, not complete: what could not be proved free is pinned (see :attr:`pinned`). Sign flips,
    scalings and rotations are not in scope.

    Args:
        structure: Families of units, owners before members.
        group_families: Number of the family that each group permutes.
        groups: The groups of units that may be permuted.
        axes: Labels of every state entry.
        shapes: Shape of every state entry.
        pinned: Causes that hold axes of the state and lie in what the rules can prove, not in the
            meaning of the axis.
        reasons: For every state entry a sentence for each axis that cannot move; empty for others.
    """

    structure: Structure
    group_families: tuple[int, ...]
    groups: tuple[Group, ...]
    axes: Mapping[str, Labels]
    shapes: Mapping[str, tuple[int, ...]]
    pinned: tuple[Pin, ...] = ()
    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The numbers of free groups and units, and of the pins that hold others."""
        units = sum(group.cells * group.size for group in self.groups)
        pins = f", {counted(len(self.pinned), 'pin')}" if self.pinned else ""
        return f"Symmetry({counted(len(self.groups), 'group')}, {units:,} units{pins})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(group.name for group in self.groups)

    @cached_property
    def movable(self) -> Ints:
        """(units,) 1 for every unit that some element moves, 0 for the others."""
        movable = np.zeros(self.structure.count, np.int64)
        for family in self.structure.families:
            owned = movable[family.owners].any(axis=1) if family.owners.size else False
            movable[family.cells] = (np.zeros(len(family.cells), np.bool_) | owned)[:, None]
            if family.size > 1:
                movable[family.cells] = 1
        return movable

    @cached_property
    def coverage(self) -> float:
        """Share of state entries that a random element moves, in [0, 1]."""
        total = sum(math.prod(shape) for shape in self.shapes.values())
        moved = sum(moving_share(self.axes[k], self.shapes[k], self.movable) for k in self.axes)
        return moved / total if total else 0.0

    @cached_property
    def log2_order(self) -> float:
        """Binary logarithm of the number of elements."""
        return sum(g.cells * math.lgamma(g.size + 1) for g in self.groups) / math.log(2)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole content: equal digests mean the same symmetry."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    # --- elements -------------------------------------------------------------------------------

    def identity(self) -> Permutation:
        """The element that moves nothing."""
        return self._element(
            {g.name: np.tile(np.arange(g.size, dtype=np.int64), (g.cells, 1)) for g in self.groups}
        )

    def random(self, generator: torch.Generator) -> Permutation:
        """A uniformly random element of the whole group."""
        return self._element(
            {
                g.name: np.stack(
                    [torch.randperm(g.size, generator=generator).numpy() for _ in range(g.cells)]
                )
                for g in self.groups
            }
        )

    def compose(self, p: Permutation, q: Permutation) -> Permutation:
        """The element "first ``q``, then ``p``".

        So ``apply(compose(p, q), s) == apply(p, apply(q, s))``.
        """
        return self._decode(self.moves(q)[self.moves(p)])

    def inverse(self, p: Permutation) -> Permutation:
        """The element that undoes ``p``."""
        return self._decode(np.argsort(self.moves(p)))

    def moves(self, p: Permutation) -> Ints:
        """For every unit the unit that takes its place under ``p``.

        Args:
            p: An element of this symmetry.

        Raises:
            ConfigError: If it is no permutation.
            StructureError: If it is of another symmetry.
        """
        check_kind("p", p, Permutation, "a dimat.Permutation, such as match(…).permutation")
        if p.digest != self.digest:
            raise StructureError(
                f"a permutation of another symmetry: its digest is {p.digest[:12]}…, "
                f"this symmetry has {self.digest[:12]}…"
            )
        return self.structure.moves(
            {f: p.slots[g.name] for f, g in zip(self.group_families, self.groups, strict=True)}
        )

    def _decode(self, moves: Ints) -> Permutation:
        return self._element(
            {
                g.name: self.structure.slots(moves, f)
                for f, g in zip(self.group_families, self.groups, strict=True)
            }
        )

    def _element(self, slots: dict[str, Ints]) -> Permutation:
        return Permutation(slots, self.digest)

    # --- action ---------------------------------------------------------------------------------

    def apply(self, p: Permutation, state: Mapping[str, Tensor] | nn.Module) -> State:
        """A new state with its units moved by ``p``; the model computes the same function with it.

        Args:
            p: An element of this symmetry.
            state: Entries of this symmetry's keys and shapes, or some of them (gradients, momenta);
                or a model, whose own are taken.

        Raises:
            ConfigError: If it is something else.
            StructureError: If an entry is unknown or has another shape, or ``p`` is of another
                symmetry.
        """
        moves = self.moves(p)
        entries = _entries(state)
        for key, value in entries.items():
            self._check_entry(key, value)
        labels, axes = self._distinct
        used = sorted({number for key in entries for _, number in axes.get(key, ())})
        own = orders([labels[number] for number in used], moves)  # of momenta that come one by one
        order = dict(zip(used, own, strict=True))
        moved: State = {}
        for key, value in entries.items():
            if key not in axes:
                moved[key] = take(value, sources(self.axes[key], moves))
                continue
            along = [(axis, x) for axis, n in axes[key] if (x := order[n]) is not None]
            moved[key] = along_axes(value, along) if along else value.clone()
        return moved

    @cached_property
    def _distinct(self) -> tuple[list[Ints], dict[str, list[tuple[int, int]]]]:
        """The distinct labels that can move, and the number of each by entry and axis.

        Of entries whose axes move alone; others are left out.

        Found once: to look them up anew for every entry took longer than to move its numbers.
        """
        numbers: dict[bytes, int] = {}
        labels: list[Ints] = []
        axes: dict[str, list[tuple[int, int]]] = {}
        for key, own in self.axes.items():
            units = [(i, x) for i, x in enumerate(own) if not isinstance(x, Special)]
            if any(x.size != x.shape[i] for i, x in units):
                continue
            axes[key] = []
            for axis, label in units:
                if not self.movable[label].any():
                    continue  # such as the places of a kernel
                number = numbers.setdefault(label.tobytes(), len(labels))
                if number == len(labels):
                    labels.append(label.ravel())
                axes[key].append((axis, number))
        return labels, axes

    def plan(self, p: Permutation) -> dict[str, Sources]:
        """For every state key the indices to read from when ``p`` is applied."""
        moves = self.moves(p)
        memo: Memo = {}
        return {key: sources(labels, moves, memo) for key, labels in self.axes.items()}

    def _check_entry(self, key: str, value: Tensor) -> None:
        if self.shapes.get(key) == value.shape:
            return
        if key not in self.shapes:
            raise StructureError(
                f"the state does not belong to this symmetry: unknown entry '{key}'"
                f"{nearest_key(key, self.shapes)}"
            )
        raise StructureError(
            f"the state does not belong to this symmetry: '{key}' has shape "
            f"{tuple(value.shape)}, expected {self.shapes[key]}"
        )

    def explain(self, key: str) -> str:
        """One line per axis of a state entry: the groups that move it, or why it is pinned.

        Args:
            key: Key of the entry.

        Raises:
            StructureError: If there is no such entry.
        """
        if key not in self.axes:
            near = nearest_key(key, self.axes)
            raise StructureError(f"no state entry '{key}' in this symmetry{near}")
        lines = []
        for axis, n in enumerate(self.shapes[key]):
            acting = [g.name for g in self.groups if (key, axis) in g.members]
            reasons = self.reasons.get(key, ())
            why = reasons[axis] if axis < len(reasons) and reasons[axis] else "fixed"
            free = f"moved by {', '.join(acting)}" if acting else f"pinned: {why}"
            lines.append(f"{key} axis {axis} (size {n}): {free}")
        return "\n".join(lines)

    # --- JSON -----------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The whole symmetry as JSON, with its digest."""
        return json.dumps({**self._content(), "digest": self.digest})

    def _content(self) -> dict[str, Any]:
        return {
            "format": "dimat-symmetry-1",
            "families": [
                {
                    "units": _runs(f.cells),
                    "shape": list(f.cells.shape),
                    "owners": _runs(f.owners),
                    "over": list(f.over),
                }
                for f in self.structure.families
            ],
            "groups": [
                {
                    "name": g.name,
                    "family": f,
                    "over": list(g.over),
                    "members": [list(m) for m in g.members],
                }
                for f, g in zip(self.group_families, self.groups, strict=True)
            ],
            "shapes": {key: list(shape) for key, shape in self.shapes.items()},
            "axes": {
                key: [
                    None if isinstance(x, Special) else {"shape": list(x.shape), "units": _runs(x)}
                    for x in labels
                ]
                for key, labels in self.axes.items()
            },
            "pinned": [[p.operator, p.where, p.why] for p in self.pinned],
            "reasons": {key: list(why) for key, why in self.reasons.items()},
        }

    @staticmethod
    def from_axes(
        axes: Mapping[str, Sequence[str | None]], state: Mapping[str, Tensor] | nn.Module
    ) -> Symmetry:
        """A symmetry given by hand: a name for every axis that may move, as git-re-basin has them.

        For models that cannot be exported. Nothing is proved: check it with
        :func:`dimat.check_symmetry`.

        Args:
            axes: For state entries the group name of each axis, None where it is fixed, such as
                ``{"fc1.weight": ("hidden", None), "fc1.bias": ("hidden",), "fc2.weight": (None,
                "hidden")}``. Entries not named are fixed.
            state: The model's state, or the model, for the shapes.

        Raises:
            ConfigError: If ``axes`` or ``state`` is something else.
            StructureError: If an entry is unknown, has another number of axes, or axes of one name
                have different sizes.
        """
        check_kind("axes", axes, Mapping, "names of axes by state entry")
        state = tensors_of(_entries(state))
        sizes: dict[str, int] = {}
        labels: dict[str, Labels] = {k: (FIXED,) * v.dim() for k, v in state.items()}
        members: dict[str, list[tuple[str, int]]] = {}
        for key, names in axes.items():
            if key not in state:
                raise StructureError(
                    f"axes are given for '{key}', which the state does not have"
                    f"{nearest_key(key, state)}"
                )
            check_kind(f"axes of {key}", names, (tuple, list), "a name or None for each axis")
            if len(names) != state[key].dim():
                raise StructureError(
                    f"'{key}' has {state[key].dim()} axes, but {len(names)} names are given"
                )
            for axis, name in enumerate(names):
                if name is None:
                    continue
                size = int(state[key].shape[axis])
                if sizes.setdefault(name, size) != size:
                    raise StructureError(
                        f"'{key}' axis {axis} has size {size}, but group '{name}' has {sizes[name]}"
                    )
                members.setdefault(name, []).append((key, axis))
        starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
        units = {n: starts[n] + np.arange(sizes[n], dtype=np.int64) for n in sizes}
        for key, names in axes.items():
            rank = len(names)
            labels[key] = tuple(
                FIXED if name is None else units[name].reshape(along(i, rank, sizes[name]))
                for i, name in enumerate(names)
            )
        empty = np.empty((1, 0), np.int64)
        structure = structure_of([UnitFamily(units[n][None, :], empty, ()) for n in sizes])
        groups = tuple(Group(n, sizes[n], 1, (), tuple(members[n])) for n in sizes)
        shapes = {key: tuple(int(n) for n in value.shape) for key, value in state.items()}
        return Symmetry(structure, tuple(range(len(sizes))), groups, labels, shapes)

    @staticmethod
    def from_json(text: str) -> Symmetry:
        """The symmetry that :meth:`to_json` wrote.

        Raises:
            StructureError: If the text is not such JSON, or was changed since it was written.
        """
        try:
            content = json.loads(text)
            if content.get("format") != "dimat-symmetry-1":
                raise StructureError("not a dimat symmetry: 'format' is not dimat-symmetry-1")
            symmetry = _parse(content)
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            if isinstance(error, StructureError):
                raise
            raise StructureError(f"not a dimat symmetry: {type(error).__name__} {error}") from error
        if symmetry.digest != content.get("digest"):
            raise StructureError(
                f"the symmetry was changed since it was written: its digest is "
                f"{str(content.get('digest'))[:12]}…, its content has {symmetry.digest[:12]}…"
            )
        return symmetry


def _entries(state: Mapping[str, Tensor] | nn.Module) -> Mapping[str, Tensor]:
    """The entries of a state that is given as a mapping or as a model."""
    if isinstance(state, nn.Module):
        return state.state_dict()
    check_kind("state", state, Mapping, "tensors by name, as model.state_dict() gives them")
    return state


def _runs(array: Ints) -> list[list[int]]:
    """An integer array as runs [start, step, count]: unit numbers come mostly in sequence."""
    flat = array.ravel()
    runs: list[list[int]] = []
    i = 0
    while i < len(flat):
        step = int(flat[i + 1] - flat[i]) if i + 1 < len(flat) else 0
        breaks = np.flatnonzero(np.diff(flat[i:]) != step)
        count = int(breaks[0]) + 1 if len(breaks) else len(flat) - i
        runs.append([int(flat[i]), step, count])
        i += count
    return runs


def _expand(runs: list[list[int]], shape: tuple[int, ...]) -> Ints:
    """The integer array that :func:`_runs` wrote."""
    expected = math.prod(shape)
    if sum(count for _, _, count in runs) != expected:
        raise StructureError(f"wrong size: runs do not fill the shape {shape}")
    parts = [start + step * np.arange(count, dtype=np.int64) for start, step, count in runs]
    return (np.concatenate(parts) if parts else np.empty(0, np.int64)).reshape(shape)


def _parse(content: dict[str, Any]) -> Symmetry:
    families = []
    for f in content["families"]:
        cells = _expand(f["units"], tuple(f["shape"]))
        over = tuple(f["over"])
        families.append(UnitFamily(cells, _expand(f["owners"], (len(cells), len(over))), over))
    structure = structure_of(families)
    axes: dict[str, Labels] = {}
    for key, labels in content["axes"].items():
        axes[key] = tuple(_parse_label(x, key, structure.count) for x in labels)
    groups = []
    for g in content["groups"]:
        cells, size = families[g["family"]].cells.shape
        members = tuple((str(k), int(a)) for k, a in g["members"])
        for key, _ in members:
            if key not in axes:
                raise StructureError(f"group '{g['name']}' has an unknown member '{key}'")
        groups.append(Group(g["name"], size, cells, tuple(g["over"]), members))
    return Symmetry(
        structure,
        tuple(int(g["family"]) for g in content["groups"]),
        tuple(groups),
        axes,
        {key: tuple(shape) for key, shape in content["shapes"].items()},
        tuple(Pin(*p) for p in content["pinned"]),
        {key: tuple(why) for key, why in content["reasons"].items()},
    )


def nothing_moves(symmetry: Symmetry) -> str:
    """The note on a model without groups, with the first reason for it.

    Args:
        symmetry: A symmetry that has no group.
    """
    pins = [pin for pin in symmetry.pinned if not pin.inherent] or list(symmetry.pinned)
    why = f" ({pins[0].why}, {pins[0].operator} at {pins[0].where})" if pins else ""
    return (
        f"nothing of the model can be permuted{why}: all units are combined as they are, and "
        "nothing is aligned; 'dimat symmetry' shows why"
    )


def _parse_label(label: dict[str, Any] | None, key: str, count: int) -> Label:
    if label is None:
        return FIXED
    units = _expand(label["units"], tuple(label["shape"]))
    if units.size and (units.min() < 0 or units.max() >= count):
        raise StructureError(f"'{key}' names a unit that does not exist")
    return units
