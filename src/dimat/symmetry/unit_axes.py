"""Positions of the units of every group on a tensor, by which two models are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from dimat.symmetry.labels.units import Ints, Label, Labels, Special
from dimat.symmetry.symmetry import Symmetry
from dimat.symmetry.unit_places import standing_for, unit_places


@dataclass(frozen=True, eq=False)
class UnitAxes:
    """The positions of all units of a group on one axis of a tensor.

    Args:
        group: Name of the group.
        axes: The axes that the units lie on together, in order: two where one depends on another
            (channels of whichever group of a grouped convolution, dimensions of whichever head).
        index: (units, places) positions along those axes, flattened, units in cell order; several
            places where the axis has places of its own, as after flattening.
        beside: Other groups that move the places.
        rest: For every other axis the groups that move it; the group itself too, where it
            stands on the tensor twice.
    """

    group: str
    axes: tuple[int, ...]
    index: Ints
    beside: frozenset[str]
    rest: dict[int, frozenset[str]]

    @property
    def others(self) -> frozenset[str]:
        """The other groups here, which must be in order before entries can be compared."""
        return self.beside.union(*self.rest.values())


def outer_groups(symmetry: Symmetry) -> dict[str, frozenset[str]]:
    """For each group those that its cells belong to, directly or through others.

    Args:
        symmetry: Symmetry of the model.
    """
    over = {g.name: g.over for g in symmetry.groups}

    def above(name: str) -> frozenset[str]:
        return frozenset(over[name]).union(*(above(o) for o in over[name]))

    return {name: above(name) for name in over}


def unit_axes(symmetry: Symmetry, labels: Labels) -> list[UnitAxes]:
    """The positions of every group on every axis of a tensor.

    Two kinds of group are left out, as they cannot be compared place by place: a group of which two
    units meet in one index (a flattened Gram matrix), and a group whose every place is taken by a
    group inside it (heads are compared by their dimensions).

    Args:
        symmetry: Symmetry of the model.
        labels: Labels of the tensor's axes.
    """
    found = [
        own
        for axis, label in enumerate(labels)
        if not isinstance(label, Special)
        for own in _on_axis(symmetry, labels, axis, label)
    ]
    outer = outer_groups(symmetry)
    hidden = [(name, set(s.axes)) for s in found for name in outer[s.group]]
    return [s for s in found if not any(s.group == n and set(s.axes) <= a for n, a in hidden)]


def _on_axis(symmetry: Symmetry, labels: Labels, axis: int, label: Ints) -> Iterator[UnitAxes]:
    joint = _spread(label)
    units, also = label.ravel(), _also(labels, axis, joint)
    rest = {i: _rest(symmetry, labels[i], joint) for i in range(len(labels)) if i not in joint}
    outer = outer_groups(symmetry)
    for number, own in sorted(standing_for(symmetry.structure, units).items()):
        if number not in symmetry.group_families:
            continue
        index = unit_places(symmetry.structure, number, units, own, also)
        if index is not None:
            name, used = _names(symmetry)[number], index.ravel()
            here = _standing(symmetry, units[used]) - {name} | _standing(symmetry, also[used])
            yield UnitAxes(name, joint, index, here - outer[name], rest)


def _spread(label: Label) -> tuple[int, ...]:
    """The axes along which a label's units differ."""
    return (
        () if isinstance(label, Special) else tuple(i for i, n in enumerate(label.shape) if n > 1)
    )


def _also(labels: Labels, axis: int, joint: tuple[int, ...]) -> Ints:
    """(indices, labels) units that further labels have on the joint axes; places as -1, -2, …"""
    own = labels[axis]
    assert not isinstance(own, Special)
    shape = tuple(own.shape[i] for i in joint)
    columns = []
    for other, label in enumerate(labels):
        if other != axis and isinstance(label, Special) and other in joint:
            columns.append(-1 - np.indices(shape)[joint.index(other)].ravel())
        elif other != axis and _spread(label) and set(_spread(label)) <= set(joint):
            assert not isinstance(label, Special)
            flat = label.reshape([label.shape[i] for i in joint])
            columns.append(np.broadcast_to(flat, shape).ravel())
    return np.stack(columns, 1) if columns else np.empty((math.prod(shape), 0), np.int64)


def _rest(symmetry: Symmetry, label: Label, joint: Iterable[int]) -> frozenset[str]:
    """The groups of a label that are not, or not only, on the joint axes."""
    if isinstance(label, Special) or set(_spread(label)) <= set(joint):
        return frozenset()
    return _standing(symmetry, label.ravel())


def _standing(symmetry: Symmetry, units: Ints) -> frozenset[str]:
    names = _names(symmetry)
    standing = standing_for(symmetry.structure, np.unique(units[units >= 0]))
    return frozenset(names[number] for number in standing if number in names)


def _names(symmetry: Symmetry) -> dict[int, str]:
    return dict(zip(symmetry.group_families, symmetry.names, strict=True))
