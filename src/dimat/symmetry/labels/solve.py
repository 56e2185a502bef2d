"""The group of all permutations of units that respect the facts recorded by the rules.

1. *Close*: units that are the same become one; within a relation a unit has one owner, so owners of
   one unit become one; where an owner's members all have one further owner, the owner belongs to
   that (a query head to its key/value head). Units that belong to each other form a *body*.
2. *Refine*: units get colors, by the axes they stand on, and by the colors of owners and members,
   until the coloring is stable. Units of one color form a *family*.
3. *Cells*: units of one family with the same owners may be permuted among themselves. A family
   whose cells hold more than one unit is a group of the symmetry: one permutation a cell.

The result is checked unit by unit (:func:`check_family`); a family that fails is pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dimat.errors import StructureError
from dimat.symmetry.labels.closure import Facts, close
from dimat.symmetry.labels.row_hash import Hashes, distinct, hash64, row_keys
from dimat.symmetry.labels.structure import Structure, UnitFamily, cycles
from dimat.symmetry.labels.units import Ints, Pin, Units


@dataclass
class Solution:
    """The solved group: its structure, and the map from the units of the rules to its units.

    Attributes:
        structure: The families of units and their cells.
        number: For every unit of the rules its unit in the structure.
        reasons: For units of the structure that cannot move the pin that holds them.
    """

    structure: Structure
    number: Ints
    reasons: dict[int, Pin] = field(default_factory=dict)

    def of(self, label: Ints) -> Ints:
        """A label in the structure's unit numbers."""
        return self.number[label]


def solve(units: Units, axes: Sequence[tuple[Ints, int]]) -> Solution:
    """The group of all unit permutations that respect the facts.

    Args:
        units: The facts.
        axes: Every label in use, with its own axis: an axis must be mapped onto itself.
    """
    # A family that fails the check is pinned and everything is solved again, since its units told
    # others apart or owned them. Pins only grow, so that this ends.
    facts = close(units)
    pinned, reasons = _pinned(units, facts, axes)
    while True:
        colors = _refine(facts, axes, pinned)
        structure = _structure(colors, _by_body(facts, colors), pinned)
        bad = _irregular(structure, facts, pinned)
        if bad is None:
            return Solution(structure, facts.number, reasons)
        for unit in np.flatnonzero(bad & ~pinned):
            reasons.setdefault(int(unit), Pin("", "", "its units do not move together regularly"))
        pinned = _spread_pins(pinned | bad, facts.rows)


def _by_body(facts: Facts, colors: Hashes) -> Ints:
    """Owner facts without circles: parts belong to their body's least unit, which has all owners.

    Families must be put in an order, owners first, and a circle of owners has none.
    """
    rows, body = facts.rows, facts.body
    outward = rows[body[rows[:, 1]] != body[rows[:, 2]]]
    role = (hash64(outward[:, 0].astype(np.uint64)) ^ colors[outward[:, 1]]) >> np.uint64(1)
    lifted = np.column_stack([role.astype(np.int64), body[outward[:, 1]], body[outward[:, 2]]])
    parts = np.flatnonzero(body != np.arange(facts.count))
    inward = np.column_stack([np.zeros(len(parts), np.int64), parts, body[parts]])
    return distinct(np.concatenate([outward, lifted, inward]))


def _pinned(
    units: Units, facts: Facts, axes: Sequence[tuple[Ints, int]]
) -> tuple[NDArray[np.bool_], dict[int, Pin]]:
    """Mask of the units that the facts hold in place, and the pin of each."""
    number, rows, count = facts.number, facts.rows, facts.count
    pinned = np.zeros(count, np.bool_)
    reasons: dict[int, Pin] = {}
    for label, pin in units.pins:
        mine = np.unique(number[label])
        for unit in mine[~pinned[mine]]:
            reasons[int(unit)] = pin
        pinned[mine] = True
    for label, pin in units.held:
        for unit in np.unique(number[label]):
            reasons.setdefault(int(unit), pin)
    # Two indices of one axis with one unit between them: a permutation of units would not say which
    # index goes where, so that unit stays, with all that belongs to it.
    collapsed = np.zeros(count, np.bool_)
    for label, axis in axes:
        ordered = np.sort(number[label], axis=axis)
        n = label.shape[axis]
        first = np.take(ordered, range(n - 1), axis)
        collapsed[first[first == np.take(ordered, range(1, n), axis)]] = True
    collapsed &= ~pinned
    grown = collapsed.copy()
    while True:
        members = np.zeros(count, np.bool_)
        members[rows[grown[rows[:, 2]], 1]] = True
        if not (members & ~grown).any():
            break
        grown |= members
    for unit in np.flatnonzero(grown & ~pinned):
        reasons[int(unit)] = Pin("", "", "two indices of one axis are tied to each other")
    return _spread_pins(pinned | (grown if collapsed.any() else collapsed), rows), reasons


def _spread_pins(pinned: NDArray[np.bool_], rows: Ints) -> NDArray[np.bool_]:
    """The mask with all owners of pinned units pinned: a member that stays holds its owner."""
    pinned = pinned.copy()
    while True:
        owners = rows[pinned[rows[:, 1]], 2]
        if pinned[owners].all():
            return pinned
        pinned[owners] = True


def _refine(facts: Facts, axes: Sequence[tuple[Ints, int]], pinned: NDArray[np.bool_]) -> Hashes:
    """Stable colors of the units: step 2. Units of different colors never change places.

    A color is a hash of what the unit stands on and of the colors of its owners and members, by
    relation. Sums of hashes, as neither axes nor members have an order.
    """
    number, rows, count = facts.number, facts.rows, facts.count
    colors = np.zeros(count, np.uint64)
    seen: set[int] = set()
    with np.errstate(over="ignore"):
        for k, (label, _) in enumerate(axes):
            if id(label) not in seen:
                seen.add(id(label))
                colors[np.unique(number[label])] += hash64(np.asarray([k], np.uint64))[0]
        ids = np.arange(count, dtype=np.uint64)
        # Every pinned unit has a color of its own: it stays, so it tells apart what belongs to it.
        colors = np.where(pinned, hash64(ids + np.uint64(1 << 40)), hash64(colors))
        relation = hash64(rows[:, 0].astype(np.uint64))
        distinct = len(np.unique(colors))
        while True:
            up = np.zeros(count, np.uint64)
            np.add.at(up, rows[:, 1], hash64(relation ^ colors[rows[:, 2]]))
            down = np.zeros(count, np.uint64)
            np.add.at(down, rows[:, 2], hash64(~relation ^ colors[rows[:, 1]]))
            colors = np.where(pinned, colors, hash64(colors ^ hash64(up ^ hash64(down))))
            now = len(np.unique(colors))
            if now == distinct:  # colors only split: as many as before are the same partition
                return colors
            distinct = now


def _structure(colors: Hashes, rows: Ints, pinned: NDArray[np.bool_]) -> Structure:
    """Families and cells, owners before members: step 3. All pinned units are one family."""
    count = len(colors)
    rows = rows[~pinned[rows[:, 1]]]
    colors = np.where(pinned, np.uint64(0), colors)
    with np.errstate(over="ignore"):
        # Units of one family belong to one cell if their owners are the same, relation by relation:
        # only then may any of them take the place of any other while all owners stay.
        key = np.zeros(count, np.uint64)
        fact = hash64(hash64(rows[:, 0].astype(np.uint64)) ^ rows[:, 2].astype(np.uint64))
        np.add.at(key, rows[:, 1], fact)
        key = hash64(key ^ hash64(colors))
    family_of = np.unique(colors, return_inverse=True)[1].astype(np.int64)
    by_cell = np.lexsort((np.arange(count), key, family_of))
    owners_of = _owner_table(rows, count)
    order = _owners_first(family_of, rows)
    members = np.split(by_cell, np.flatnonzero(np.diff(family_of[by_cell])) + 1)
    families: list[UnitFamily] = []
    renumber = np.empty(count, np.int64)
    cell_of, slot_of = np.empty(count, np.int64), np.empty(count, np.int64)
    position = {int(f): k for k, f in enumerate(order)}
    for f in order:
        mine = members[int(f)]
        starts = np.flatnonzero(np.r_[True, np.diff(key[mine].view(np.int64)) != 0])
        sizes = np.diff(np.r_[starts, len(mine)])
        if pinned[mine[0]] or (sizes != sizes[0]).any():
            # Pinned units stay, and cells of unlike sizes cannot take each other's places: every
            # unit is a cell of its own, which does no more than follow its owners.
            starts, sizes = np.arange(len(mine)), np.ones(len(mine), np.int64)
        cells = mine.reshape(-1, int(sizes[0]))
        cells = cells[np.argsort(cells[:, 0])]
        table = owners_of(cells[:, 0])
        over = tuple(position[int(family_of[o])] for o in table[0]) if table.size else ()
        families.append(UnitFamily(cells, table, over))
        renumber[mine] = len(families) - 1
        cell_of[cells] = np.arange(len(cells))[:, None]
        slot_of[cells] = np.arange(cells.shape[1])[None, :]
    return Structure(families, renumber, cell_of, slot_of)


def _owner_table(rows: Ints, count: int):  # type: ignore[no-untyped-def]
    """A function that gives the owners of some units of one family, in the order of relations."""
    rows = rows[np.lexsort((rows[:, 0], rows[:, 1]))]
    start = np.searchsorted(rows[:, 1], np.arange(count + 1))

    def owners(units: Ints) -> Ints:
        number = int(start[units[0] + 1] - start[units[0]])
        index = start[units][:, None] + np.arange(number)[None, :]
        table = rows[index, 2] if number else np.empty((len(units), 0), np.int64)
        new: list[int] = []
        for k in range(number):  # columns that repeat another say nothing new
            if not any(np.array_equal(table[:, k], table[:, j]) for j in new):
                new.append(k)
        return table[:, new].astype(np.int64)

    return owners


def _owners_first(family_of: Ints, rows: Ints) -> list[int]:
    """The families in an order in which owners come before members; circles come last."""
    count = int(family_of.max(initial=-1)) + 1
    edges = distinct(np.stack([family_of[rows[:, 2]], family_of[rows[:, 1]]], 1))
    waiting = np.zeros(count, np.int64)
    np.add.at(waiting, edges[:, 1], 1)
    successors = np.split(edges[:, 1], np.searchsorted(edges[:, 0], np.arange(1, count)))
    ready = [f for f in range(count) if waiting[f] == 0]
    order: list[int] = []
    while ready:
        f = ready.pop()
        order.append(f)
        for g in successors[f]:
            waiting[g] -= 1
            if waiting[g] == 0:
                ready.append(int(g))
    return order + [f for f in range(count) if waiting[f] > 0]


def _irregular(
    structure: Structure, facts: Facts, pinned: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Mask of the units whose family does not permute as the facts demand; None if all do."""
    generator = np.random.default_rng(0)
    bad = np.zeros(structure.count, np.bool_)
    for number, family in enumerate(structure.families):
        if any(k >= number for k in family.over):  # owners in a circle
            bad[family.cells] = True
    if (bad & ~pinned).any():
        return bad
    for number, family in enumerate(structure.families):
        if family.size > 1 and not check_family(structure, facts, number, generator):
            bad[family.cells] = True
    return bad if (bad & ~pinned).any() else None


def check_family(
    structure: Structure, facts: Facts, number: int, generator: np.random.Generator
) -> bool:
    """Whether permuting inside the cells of one family maps the set of facts onto itself.

    Colors are hashes, and equal colors are necessary for a symmetry, not sufficient: this is the
    check that makes a family of them. One cycle through every cell moves every unit of the family.

    Args:
        structure: All families.
        facts: The closed facts.
        number: The family.
        generator: Draws the cycles.
    """
    family = structure.families[number]
    try:
        moves = structure.moves({number: cycles(family.cells.shape, generator)})
    except StructureError:
        return False
    if (np.bincount(moves, minlength=structure.count) != 1).any():
        return False
    moving = moves != np.arange(structure.count)
    touched = facts.rows[moving[facts.rows[:, 1]] | moving[facts.rows[:, 2]]]
    moved = np.column_stack([touched[:, 0], moves[touched[:, 1:]]])
    return np.array_equal(np.sort(row_keys(moved)), np.sort(row_keys(touched)))
