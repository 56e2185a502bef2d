"""From facts to the group: which permutations of units respect everything the rules recorded.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dimat.errors import StructureError
from dimat.symmetry.units import Ints, Pin, Units

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Family:
    """Units that play the same role, in cells of units with the same owners.

    Args:
        cells: (num_cells, size) unit numbers; the order inside a cell is free.
        owners: (num_cells, num_owners) unit numbers, the owners that each cell has.
        over: The families of those owners.
    """

    cells: Ints
    owners: Ints
    over: tuple[int, ...]

    @property
    def size(self) -> int:
        """Units in a cell."""
        return int(self.cells.shape[1])


@dataclass
class Structure:
    """All families, owners before members; a unit's number is its position in ``family_of``."""

    families: list[Family]
    family_of: Ints
    cell_of: Ints
    slot_of: Ints

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.family_of)

    def moves(self, slots: Mapping[int, Ints]) -> Ints:
        """The permutation of all units made by permutations inside cells.

        Args:
            slots: For some families, an array (num_cells, size): row c is a permutation of the
                slots of cell c. Families not named keep their slots.

        Returns:
            For every unit the unit that takes its place: new[u] = old[moves[u]].

        Raises:
            StructureError: If the families do not fit together (the rules missed a fact).
        """
        moves = np.arange(self.count, dtype=np.int64)
        for number, family in enumerate(self.families):
            target = _find_rows(family.owners, moves[family.owners])
            own = slots.get(number)
            picked = np.arange(family.size)[None, :] if own is None else own
            moves[family.cells] = family.cells[target[:, None], picked]
        return moves

    def slots(self, moves: Ints, number: int) -> Ints:
        """The inverse of :meth:`moves` for one family."""
        return self.slot_of[moves[self.families[number].cells]]


def _find_rows(rows: Ints, wanted: Ints) -> Ints:
    """The index in ``rows`` of every row of ``wanted``."""
    if np.array_equal(rows, wanted):
        return np.arange(len(rows), dtype=np.int64)
    keys, queries = _row_keys(rows), _row_keys(wanted)
    order = np.argsort(keys)
    position = np.searchsorted(keys[order], queries)
    found = order[np.minimum(position, len(order) - 1)]
    if not np.array_equal(rows[found], wanted):
        raise StructureError("owners of a family do not move together")
    return found.astype(np.int64)


def _row_keys(rows: Ints) -> Hashes:
    keys = np.full(len(rows), 17, np.uint64)
    for column in rows.T:
        keys = _mix(keys ^ _mix(column.astype(np.uint64)))
    return keys


def _distinct(rows: Ints) -> Ints:
    """The rows without repeats, sorted; several times faster than ``np.unique(axis=0)``."""
    rows = rows[np.unique(_row_keys(rows), return_index=True)[1]]
    return rows[np.lexsort(rows.T[::-1])]


def _mix(x: Hashes) -> Hashes:
    """A hash of 64-bit integers (splitmix64)."""
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@dataclass
class Solution:
    """The structure, and how the units of the rules map to its units."""

    structure: Structure
    number: Ints
    reasons: dict[int, Pin] = field(default_factory=dict)

    def of(self, label: Ints) -> Ints:
        """The structure's units of a label."""
        return self.number[label]


@dataclass
class Relations:
    """Owner facts as parallel columns: relation, member, owner; sorted and without repeats."""

    rows: Ints

    @classmethod
    def of(cls, units: Units, number: Ints) -> Relations:
        """The facts of the rules, over unit numbers."""
        if not units.owners:
            return cls(np.empty((0, 3), np.int64))
        parts = [
            np.stack([np.full(len(m), relation), number[m], number[o]], 1)
            for relation, m, o in units.owners
        ]
        return cls(_distinct(np.concatenate(parts)))


@dataclass(frozen=True)
class Facts:
    """The facts after closing them.

    Args:
        number: For every unit of the rules its number; units that are the same share one.
        rows: (n, 3) relation, member, owner: sorted, without repeats.
        body: For every number the body it is part of: numbers that determine each other's place.
    """

    number: Ints
    rows: Ints
    body: Ints

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return len(self.body)


def close(units: Units) -> Facts:
    """Step 1: close the facts."""
    pairs = [np.stack([a, b], 1) for a, b in units.same_pairs]
    same = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
    derived = np.empty((0, 3), np.int64)
    names: dict[tuple[int, int], int] = {}
    while True:
        number = _components(units.count, same)
        count = int(number.max(initial=-1)) + 1
        mapped = np.column_stack([derived[:, 0], number[derived[:, 1]], number[derived[:, 2]]])
        rows = _distinct(np.concatenate([Relations.of(units, number).rows, mapped]))
        rows = rows[rows[:, 1] != rows[:, 2]]
        first = np.full(count, -1, np.int64)
        first[number[::-1]] = np.arange(units.count)[::-1]
        clash = (rows[1:, 0] == rows[:-1, 0]) & (rows[1:, 1] == rows[:-1, 1])
        clash &= rows[1:, 0] > 0  # a derived fact may name several parts of one body
        if clash.any():
            tied = np.column_stack([first[rows[1:][clash, 2]], first[rows[:-1][clash, 2]]])
            same = np.concatenate([same, tied])
            continue
        body = _bodies(count, rows)
        more = _derive(rows, body, names)
        if not len(more):
            return Facts(number, rows, body)
        derived = np.concatenate([derived, np.column_stack([more[:, 0], first[more[:, 1:]]])])


def _bodies(count: int, rows: Ints) -> Ints:
    """Numbers that own each other, in a circle, move together: for each the least of them."""
    graph = coo_array((np.ones(len(rows), np.int8), (rows[:, 1], rows[:, 2])), (count, count))
    label = connected_components(graph, directed=True, connection="strong")[1]
    least = np.full(int(label.max(initial=-1)) + 1, count, np.int64)
    np.minimum.at(least, label, np.arange(count))
    return least[label]


def _components(count: int, pairs: Ints) -> Ints:
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _derive(rows: Ints, body: Ints, names: dict[tuple[int, int], int]) -> Ints:
    """New owner facts: where an owner's members all have one further owner, it belongs to that.

    Where that holds both ways, the two become one body.
    """
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    empty = np.empty((0, 3), np.int64)
    joins: list[Ints] = []
    for shift in range(1, len(rows)):
        a, b = rows[:-shift], rows[shift:]
        both = a[:, 1] == b[:, 1]
        if not both.any():
            break
        a, b = a[both], b[both]
        apart = body[a[:, 2]] != body[b[:, 2]]
        a, b = a[apart], b[apart]
        joins.append(np.column_stack([a[:, 0], b[:, 0], a[:, 2], body[b[:, 2]]]))
        joins.append(np.column_stack([b[:, 0], a[:, 0], b[:, 2], body[a[:, 2]]]))
    if not joins:
        return empty
    joined = _distinct(np.concatenate(joins))
    _, index, counts = np.unique(_row_keys(joined[:, :3]), return_index=True, return_counts=True)
    single = joined[index[counts == 1]]
    known = _row_keys(body[rows[:, 1:]])
    bodies = np.column_stack([body[single[:, 2]], single[:, 3]])
    new = single[~np.isin(_row_keys(bodies), known)]
    facts = [
        (names.setdefault((int(r), int(s)), -1 - len(names)), int(a), int(b)) for r, s, a, b in new
    ]
    return np.asarray(facts, np.int64).reshape(-1, 3)


def solve(units: Units, axes: Sequence[tuple[Ints, int]]) -> Solution:
    """The group of all unit permutations that respect the facts.

    Args:
        units: The facts.
        axes: Every label in use, with its own axis: its units are mapped to each other.
    """
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
    """Owner facts without circles: parts belong to their body's least, which has all its owners."""
    rows, body = facts.rows, facts.body
    outward = rows[body[rows[:, 1]] != body[rows[:, 2]]]
    role = (_mix(outward[:, 0].astype(np.uint64)) ^ colors[outward[:, 1]]) >> np.uint64(1)
    lifted = np.column_stack([role.astype(np.int64), body[outward[:, 1]], body[outward[:, 2]]])
    parts = np.flatnonzero(body != np.arange(facts.count))
    inward = np.column_stack([np.zeros(len(parts), np.int64), parts, body[parts]])
    return _distinct(np.concatenate([outward, lifted, inward]))


def _pinned(
    units: Units, facts: Facts, axes: Sequence[tuple[Ints, int]]
) -> tuple[NDArray[np.bool_], dict[int, Pin]]:
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
    """Owners of a pinned unit are pinned."""
    pinned = pinned.copy()
    while True:
        owners = rows[pinned[rows[:, 1]], 2]
        if pinned[owners].all():
            return pinned
        pinned[owners] = True


def _refine(facts: Facts, axes: Sequence[tuple[Ints, int]], pinned: NDArray[np.bool_]) -> Hashes:
    """Step 2: stable colors."""
    number, rows, count = facts.number, facts.rows, facts.count
    colors = np.zeros(count, np.uint64)
    seen: set[int] = set()
    with np.errstate(over="ignore"):
        for k, (label, _) in enumerate(axes):
            if id(label) not in seen:
                seen.add(id(label))
                colors[np.unique(number[label])] += _mix(np.asarray([k], np.uint64))[0]
        ids = np.arange(count, dtype=np.uint64)
        colors = np.where(pinned, _mix(ids + np.uint64(1 << 40)), _mix(colors))
        relation = _mix(rows[:, 0].astype(np.uint64))
        distinct = len(np.unique(colors))
        while True:
            up = np.zeros(count, np.uint64)
            np.add.at(up, rows[:, 1], _mix(relation ^ colors[rows[:, 2]]))
            down = np.zeros(count, np.uint64)
            np.add.at(down, rows[:, 2], _mix(~relation ^ colors[rows[:, 1]]))
            colors = np.where(pinned, colors, _mix(colors ^ _mix(up ^ _mix(down))))
            now = len(np.unique(colors))
            if now == distinct:
                return colors
            distinct = now


def _structure(colors: Hashes, rows: Ints, pinned: NDArray[np.bool_]) -> Structure:
    """Step 3: families and cells, owners before members; all pinned units are one family."""
    count = len(colors)
    rows = rows[~pinned[rows[:, 1]]]
    colors = np.where(pinned, np.uint64(0), colors)
    with np.errstate(over="ignore"):
        key = np.zeros(count, np.uint64)
        fact = _mix(_mix(rows[:, 0].astype(np.uint64)) ^ rows[:, 2].astype(np.uint64))
        np.add.at(key, rows[:, 1], fact)
        key = _mix(key ^ _mix(colors))
    family_of = np.unique(colors, return_inverse=True)[1].astype(np.int64)
    by_cell = np.lexsort((np.arange(count), key, family_of))
    owners_of = _owner_table(rows, count)
    order = _owners_first(family_of, rows)
    members = np.split(by_cell, np.flatnonzero(np.diff(family_of[by_cell])) + 1)
    families: list[Family] = []
    renumber = np.empty(count, np.int64)
    cell_of, slot_of = np.empty(count, np.int64), np.empty(count, np.int64)
    position = {int(f): k for k, f in enumerate(order)}
    for f in order:
        mine = members[int(f)]
        starts = np.flatnonzero(np.r_[True, np.diff(key[mine].view(np.int64)) != 0])
        sizes = np.diff(np.r_[starts, len(mine)])
        if pinned[mine[0]] or (sizes != sizes[0]).any():  # every unit a cell of its own
            starts, sizes = np.arange(len(mine)), np.ones(len(mine), np.int64)
        cells = mine.reshape(-1, int(sizes[0]))
        cells = cells[np.argsort(cells[:, 0])]
        table = owners_of(cells[:, 0])
        over = tuple(position[int(family_of[o])] for o in table[0]) if table.size else ()
        families.append(Family(cells, table, over))
        renumber[mine] = len(families) - 1
        cell_of[cells] = np.arange(len(cells))[:, None]
        slot_of[cells] = np.arange(cells.shape[1])[None, :]
    return Structure(families, renumber, cell_of, slot_of)


def _owner_table(rows: Ints, count: int):  # type: ignore[no-untyped-def]
    """A function that lists the owners of units, in order of relation."""
    rows = rows[np.lexsort((rows[:, 0], rows[:, 1]))]
    start = np.searchsorted(rows[:, 1], np.arange(count + 1))

    def owners(units: Ints) -> Ints:
        number = int(start[units[0] + 1] - start[units[0]])
        index = start[units][:, None] + np.arange(number)[None, :]
        table = rows[index, 2] if number else np.empty((len(units), 0), np.int64)
        if number > 1:  # columns that repeat another say nothing new
            table = table[:, np.sort(np.unique(table, axis=1, return_index=True)[1])]
        return table.astype(np.int64)

    return owners


def _owners_first(family_of: Ints, rows: Ints) -> list[int]:
    """Families in an order in which owners come before members."""
    count = int(family_of.max(initial=-1)) + 1
    edges = np.unique(np.stack([family_of[rows[:, 2]], family_of[rows[:, 1]]], 1), axis=0)
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
    """Units of families whose permutation is not a symmetry of the facts; None if all are sound."""
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


def cycles(shape: tuple[int, ...], generator: np.random.Generator) -> Ints:
    """In every row a random permutation that moves every slot: one cycle through all of them."""
    order = generator.permuted(np.broadcast_to(np.arange(shape[1]), shape).copy(), axis=1)
    slots = np.empty(shape, np.int64)
    np.put_along_axis(slots, order, np.roll(order, 1, axis=1), axis=1)
    return slots


def check_family(
    structure: Structure, facts: Facts, number: int, generator: np.random.Generator
) -> bool:
    """Whether permuting inside the cells of one family is a symmetry of every fact."""
    family = structure.families[number]
    try:
        moves = structure.moves({number: cycles(family.cells.shape, generator)})
    except StructureError:
        return False
    if not np.array_equal(np.sort(moves), np.arange(structure.count)):
        return False
    rows = facts.rows
    touched = (moves[rows[:, 1]] != rows[:, 1]) | (moves[rows[:, 2]] != rows[:, 2])
    moved = np.column_stack([rows[touched, 0], moves[rows[touched, 1:]]])
    return bool(np.isin(_row_keys(moved), _row_keys(rows[touched])).all())
