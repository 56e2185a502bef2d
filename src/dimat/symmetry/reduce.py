"""Reduction of the solution over all units of the graphs to the symmetry of a model's states."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from dimat.symmetry.labels.solve import Solution
from dimat.symmetry.labels.structure import Structure, UnitFamily, structure_of
from dimat.symmetry.labels.units import FIXED, UNREAD, Ints, Label, Labels, Pin, Special
from dimat.symmetry.permutation import Group
from dimat.symmetry.proof.evidence import numbered
from dimat.symmetry.symmetry import Symmetry

if TYPE_CHECKING:
    from dimat.symmetry.label import Labeling


def reduce_solution(
    solution: Solution, labeling: Labeling, state: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> tuple[Symmetry, dict[str, Labels]]:
    """The symmetry of the states, and the labels of the eval graph's nodes in its unit numbers.

    Args:
        solution: The families of all units.
        labeling: The labels of the graphs; the first graph is that of eval mode.
        state: The entries of a state, for their keys and shapes.
        aliases: Keys that name the same tensor as an earlier key, and that key.
    """
    axes = {key: numbered(labeling.states[aliases.get(key, key)], solution) for key in state}
    keep = _needed(solution, axes)
    renumber, families = _restrict(solution, keep)
    own = {key: tuple(_renumber(x, renumber) for x in labels) for key, labels in axes.items()}
    reduced = structure_of(families)
    filled = {key: labels for key, labels in own.items() if state[key].numel()}
    members = _members(filled, reduced)
    group_families = [k for k, f in enumerate(families) if f.size > 1]
    group_families = [f for f in group_families if members[f]]
    keys = {key: k for k, key in enumerate(state)}
    group_families.sort(key=lambda f: [(keys[key], axis) for key, axis in members[f]])
    names = _names(group_families, members)
    groups = tuple(
        Group(
            names[f],
            families[f].size,
            len(families[f].cells),
            tuple(names[o] for o in _owning_groups(families, f) if o in names),
            members[f],
        )
        for f in group_families
    )
    unread = {key for key in state if aliases.get(key, key) in labeling.unread}
    pinned, reasons = _reasons(solution, axes, unread)
    symmetry = Symmetry(
        reduced,
        tuple(group_families),
        groups,
        own,
        {key: tuple(int(n) for n in value.shape) for key, value in state.items()},
        pinned,
        reasons,
    )
    nodes = {}
    for name, result in labeling.nodes[0].items():
        if not (result and isinstance(result[0], tuple)):
            labels = numbered(result, solution)  # type: ignore[arg-type]
            nodes[name] = tuple(_renumber(x, renumber) for x in labels)
    return symmetry, nodes


def _renumber(label: Label, renumber: Ints) -> Label:
    """A label in the new unit numbers; fixed, if one of its units was dropped."""
    if isinstance(label, Special):
        return label
    units = renumber[label]
    return FIXED if (units < 0).any() else units


def _needed(solution: Solution, axes: Mapping[str, Labels]) -> np.ndarray:
    """Mask of the families to keep: those with units on axes of states, and all their owners.

    Owners are kept although they stand on no axis: where a member goes is read off where its owners
    go, so a structure without them could not be applied.
    """
    structure = solution.structure
    keep = np.zeros(structure.count, np.bool_)
    for labels in axes.values():
        for label in labels:
            if not isinstance(label, Special):
                keep[label] = True
    keep_family = np.zeros(len(structure.families), np.bool_)
    keep_family[np.unique(structure.family_of[keep])] = True
    # Owners come before members: from the last family to the first, each is decided when it is met.
    for number in range(len(structure.families) - 1, -1, -1):
        if keep_family[number]:
            keep_family[np.unique(structure.family_of[structure.families[number].owners])] = True
    return keep_family


def _restrict(solution: Solution, keep: np.ndarray) -> tuple[Ints, list[UnitFamily]]:
    """The new number of every unit, -1 for one that is dropped, and the families that are kept."""
    structure = solution.structure
    renumber = np.full(structure.count, -1, np.int64)
    position = np.cumsum(keep) - 1
    start = 0
    kept = [f for k, f in enumerate(structure.families) if keep[k]]
    for family in kept:
        renumber[family.cells] = start + np.arange(family.cells.size).reshape(family.cells.shape)
        start += family.cells.size
    families = [
        UnitFamily(renumber[f.cells], renumber[f.owners], tuple(int(position[o]) for o in f.over))
        for f in kept
    ]
    return renumber, families


def _members(
    axes: Mapping[str, Labels], structure: Structure
) -> dict[int, tuple[tuple[str, int], ...]]:
    """For every family the state axes that carry its units, or units that belong to them."""
    found: dict[int, dict[tuple[str, int], None]] = {k: {} for k in range(len(structure.families))}
    for key, labels in axes.items():
        for axis, label in enumerate(labels):
            if not isinstance(label, Special):
                for number in np.unique(structure.family_of[label]):
                    for owner in structure.above[int(number)]:
                        found[owner][(key, axis)] = None
    return {k: tuple(v) for k, v in found.items()}


def _names(
    families: list[int], members: Mapping[int, tuple[tuple[str, int], ...]]
) -> dict[int, str]:
    """Unique names of the groups: each has that of the first module whose parameter it moves."""
    names: dict[int, str] = {}
    for f in families:
        first = next((k for k, axis in members[f] if axis == 0), members[f][0][0])
        base = first.rsplit(".", 1)[0] if "." in first else first
        name, n = base, 2
        while name in names.values():
            name, n = f"{base}#{n}", n + 1
        names[f] = name
    return names


def _owning_groups(families: list[UnitFamily], number: int) -> list[int]:
    """The nearest owning families that permute; those of size 1 only follow their own owners."""
    found: list[int] = []
    waiting = list(families[number].over)
    while waiting:
        owner = waiting.pop(0)
        if families[owner].size > 1:
            found.append(owner)
        else:
            waiting.extend(families[owner].over)
    return sorted(set(found))


def _reasons(
    solution: Solution, axes: Mapping[str, Labels], unread: Collection[str]
) -> tuple[tuple[Pin, ...], dict[str, tuple[str, ...]]]:
    """The pins of state axes that a better rule might free, and the reason of every pinned axis."""
    pins: dict[Pin, None] = {}
    reasons: dict[str, tuple[str, ...]] = {}
    for key, labels in axes.items():
        if key in unread:
            reasons[key] = (UNREAD,) * len(labels)
            continue
        own = []
        for label in labels:
            pin = None
            if not isinstance(label, Special):
                pin = solution.reasons.get(int(label.flat[0]))
            if pin is not None and pin.operator:
                if not pin.inherent:
                    pins[pin] = None
                own.append(f"{pin.why} ({pin.operator} at {pin.where})" if pin.where else pin.why)
            else:
                own.append(pin.why if pin is not None else "")
        reasons[key] = tuple(own)
    return tuple(pins), reasons
