"""Units that the indices of an axis stand for, and the correspondence of their places.

The axis (C·H·W) of a flattened image stands for channels: every channel has H·W places on it. Two
channels are compared place by place, so places need names that do not depend on the channel.
"""

from __future__ import annotations

import numpy as np

from dimat.symmetry.labels.row_hash import row_keys
from dimat.symmetry.labels.structure import Structure
from dimat.symmetry.labels.units import Ints


def standing_for(structure: Structure, units: Ints) -> dict[int, Ints]:
    """For each family that permutes its units that some units stand for, -1 where there is none.

    A unit stands for itself, or, if it only follows its owners, for those.

    Args:
        structure: Structure of the symmetry.
        units: The units of an axis, one an index.
    """
    found: dict[int, Ints] = {}

    def note(family: int, places: Ints, own: Ints) -> None:
        row = found.setdefault(family, np.full(len(units), -1, np.int64))
        row[places] = own

    for number in np.unique(structure.family_of[units]):
        family = structure.families[number]
        places = np.flatnonzero(structure.family_of[units] == number)
        if family.size > 1:
            note(int(number), places, units[places])
            continue
        for k in range(family.owners.shape[1]):
            owners = family.owners[structure.cell_of[units[places]], k]
            for owner, own in standing_for(structure, owners).items():
                note(owner, places[own >= 0], own[own >= 0])
    return found


def unit_places(
    structure: Structure, number: int, units: Ints, standing: Ints, beside: Ints | None = None
) -> Ints | None:
    """For every unit of a family its indices on an axis, corresponding ones in one column.

    Args:
        structure: Structure of the symmetry.
        number: The family.
        units: (n,) unit of every index of the axis.
        standing: (n,) the family's unit that each index stands for, or -1, as
            :func:`standing_for` gives it.
        beside: (n, labels) what else tells indices apart, where several axes are flattened into
            one: units of the others, or below 0 for an index of a fixed one.

    Returns:
        (cells x size, places) indices, units in cell order; None where some unit is not on the
        axis, or places cannot be told apart.
    """
    cells = structure.families[number].cells.ravel()
    indices = np.flatnonzero(standing >= 0)
    if not len(indices) or len(indices) % len(cells):
        return None
    rank = np.full(structure.count, -1, np.int64)
    rank[cells] = np.arange(len(cells))
    code = _codes(structure, number)[units[indices]]
    if beside is not None and beside.size:
        also = beside[indices]
        named = np.where(also >= 0, _codes(structure, number)[also], also)
        code = _name(np.column_stack([code, named]))
    order = np.lexsort((code, rank[standing[indices]]))
    owner = rank[standing[indices]][order].reshape(len(cells), -1)
    names = code[order].reshape(len(cells), -1)
    whole = (owner == np.arange(len(cells))[:, None]).all()
    alike = (names == names[0]).all() and len(np.unique(names[0])) == names.shape[1]
    return indices[order].reshape(len(cells), -1) if whole and alike else None


def _codes(structure: Structure, number: int) -> Ints:
    """A number for every unit that does not depend on where a family and its owners stand.

    Two units have one number if an element that moves only that family (and what owns it) takes
    one to the other.
    """
    moving = {number}
    for k in range(number, -1, -1):  # owners come before members
        if k in moving:
            moving.update(structure.families[k].over)
    codes, changed = structure.names.copy(), set(moving)
    for k, family in enumerate(structure.families):
        if k in moving:
            codes[family.cells] = row_keys(np.array([[k, -1, -1]])).view(np.int64)[0]
        elif not changed.isdisjoint(family.over):
            changed.add(k)
            codes[family.cells] = structure.named(k, codes)
    return codes


def _name(rows: Ints) -> Ints:
    """A number for every row, the same for equal rows."""
    return row_keys(rows.astype(np.int64)).view(np.int64)
