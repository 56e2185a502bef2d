"""Units of a wider network that a narrower one has, told by the shapes of both states."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dimat.errors import StructureError
from dimat.symmetry import Symmetry
from dimat.symmetry.labels.units import UNREAD, Special
from dimat.symmetry.unit_places import standing_for

Bools = NDArray[np.bool_]
Shapes = Mapping[str, tuple[int, ...]]


def common_units(symmetry: Symmetry, shapes: Shapes) -> Bools:
    """(units,) mask of the units that a narrower network has: the first ones of each group.

    Where a group has cells (heads), and an axis of heads and their dimensions together is shorter,
    there are fewer cells, if whole ones fit; otherwise the cells are smaller.

    Args:
        symmetry: Symmetry of the wider network.
        shapes: Shapes of the narrower state, by key; those of the wider one are no smaller.
    """
    structure, kept = symmetry.structure, _sizes(symmetry, shapes)
    common = np.ones(structure.count, np.bool_)
    for number, family in enumerate(structure.families):  # owners before members
        owned = np.all(common[family.owners], axis=1, keepdims=True)  # true where there are none
        slots: Bools = np.arange(family.size) < kept.get(number, family.size)
        common[family.cells] = owned & slots
    return common


def entry_masks(symmetry: Symmetry, shapes: Shapes, common: Bools, who: str) -> dict[str, Bools]:
    """For every entry of the wider state the places that a narrower state has values for.

    In the order of both states these are the places of one and the same entry: also on an axis
    (C x H x W), on which every channel has several places.

    Args:
        symmetry: Symmetry of the wider network.
        shapes: Shapes of the narrower state, by key.
        common: The units that the narrower network has.
        who: Name of the narrower state, for messages.

    Raises:
        StructureError: If an axis differs in its size, and not by whole units that may be added.
    """
    masks = {}
    for key, wide in symmetry.shapes.items():
        if UNREAD in symmetry.reasons.get(key, ()):
            # No unit says where its entries go, and no output depends on them.
            masks[key] = np.zeros(wide, np.bool_)
            masks[key][tuple(slice(size) for size in shapes[key])] = True
            continue
        mask = np.ones(wide, np.bool_)
        for label in symmetry.axes[key]:
            if not isinstance(label, Special):
                mask = mask & common[label]
        for axis, size in enumerate(shapes[key]):
            others = tuple(i for i in range(len(wide)) if i != axis)
            if int(mask.any(others).sum()) != size:
                raise StructureError(_misfit(symmetry, key, axis, size, who))
        if int(mask.sum()) != int(np.prod(shapes[key])):
            raise StructureError(_misfit(symmetry, key, 0, shapes[key][0], who))
        masks[key] = mask
    return masks


def _sizes(symmetry: Symmetry, shapes: Shapes) -> dict[int, int]:
    """The units that are left in a cell of a group, by the number of its family."""
    kept: dict[int, int] = {}
    joint: list[tuple[int, int, int]] = []
    for key, wide in symmetry.shapes.items():
        for axis, (size, narrow) in enumerate(zip(wide, shapes[key], strict=True)):
            label = symmetry.axes[key][axis]
            if isinstance(label, Special) or not size:
                continue
            standing = standing_for(symmetry.structure, np.unique(label))
            if len(standing) != 1:  # several groups on one axis are seen elsewhere one by one
                continue
            (number,) = standing
            along = label.shape[axis] == label.size and _cells(symmetry, number) > 1
            if along and narrow != size:
                joint.append((number, size, narrow))
            elif not along:
                own = symmetry.structure.families[number].size
                kept.setdefault(number, narrow * own // size)
    for number, size, narrow in joint:
        _share(symmetry, kept, number, size, narrow)
    return kept


def _share(symmetry: Symmetry, kept: dict[int, int], number: int, size: int, narrow: int) -> None:
    """Set what is left of cells, or of the groups that they belong to, on an axis of both."""
    family = symmetry.structure.families[number]
    owners = standing_for(symmetry.structure, np.unique(family.owners))
    over = [own for own in owners if own in symmetry.group_families]
    if kept.get(number, family.size) < family.size:
        return
    if len(over) == 1:
        cells = symmetry.structure.families[over[0]].size
        if narrow * cells % size == 0:
            kept.setdefault(over[0], narrow * cells // size)
            return
    kept.setdefault(number, narrow * family.size // size)


def _cells(symmetry: Symmetry, number: int) -> int:
    return len(symmetry.structure.families[number].cells)


def _misfit(symmetry: Symmetry, key: str, axis: int, size: int, who: str) -> str:
    wide = symmetry.shapes[key][axis]
    reasons = symmetry.reasons.get(key, ())
    why = reasons[axis] if axis < len(reasons) and reasons[axis] else ""
    why = f"cannot have units added ({why})" if why else "is shorter by no whole units of its group"
    return (
        f"{who} cannot be padded: '{key}' axis {axis} has size {size} there and {wide} in the "
        f"model, and that axis {why}"
    )
