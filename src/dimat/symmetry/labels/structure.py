"""The structure of a permutation group: families of units in cells, and its action on units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dimat.errors import StructureError
from dimat.symmetry.labels.row_hash import row_keys
from dimat.symmetry.labels.units import Ints
from dimat.text import brief


@dataclass(frozen=True)
class UnitFamily:
    """Units that play the same role, in cells of units that have the same owners.

    A cell is permuted in itself; where its owners move, it goes as a whole.

    Args:
        cells: (num_cells, size) unit numbers; the order inside a cell is free.
        owners: (num_cells, num_owners) unit numbers, the owners that each cell has.
        over: The families of those owners.
    """

    cells: Ints
    owners: Ints
    over: tuple[int, ...]

    __repr__ = brief

    @property
    def size(self) -> int:
        """Number of units in a cell."""
        return int(self.cells.shape[1])


@dataclass
class Structure:
    """The families of all units, owners before members.

    Attributes:
        families: Every unit is in one cell of one of them.
        family_of: For every unit the number of its family.
        cell_of: For every unit the number of its cell in the family.
        slot_of: For every unit its position in the cell.
    """

    families: list[UnitFamily]
    family_of: Ints
    cell_of: Ints
    slot_of: Ints

    __repr__ = brief

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.family_of)

    @cached_property
    def above(self) -> list[frozenset[int]]:
        """For every family those that its units move with: itself, its owners', and theirs."""
        above: list[frozenset[int]] = []
        for number, family in enumerate(self.families):
            above.append(frozenset({number}).union(*(above[o] for o in family.over)))
        return above

    @cached_property
    def names(self) -> Ints:
        """For every unit a number of its own, made of its family, its slot and its owners."""
        names = np.empty(self.count, np.int64)
        for number, family in enumerate(self.families):
            names[family.cells] = self.named(number, names)
        return names

    def named(self, number: int, names: Ints) -> Ints:
        """(cells, size) the names of a family's units, made of the names of its owners.

        Args:
            number: The family.
            names: The name of every unit; those of the owners are read.
        """
        family = self.families[number]
        cells, size = family.cells.shape
        own = names[family.owners] if family.owners.shape[1] else np.arange(cells)[:, None]
        head = np.full((cells, size, 1), number)
        slot = np.broadcast_to(np.arange(size)[None, :, None], (cells, size, 1))
        tail = np.broadcast_to(own[:, None, :], (cells, size, own.shape[1]))
        rows = np.concatenate([head, slot, tail], axis=2).reshape(cells * size, -1)
        return row_keys(rows.astype(np.int64)).view(np.int64).reshape(cells, size)

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
        # Owners come first, so it is known where they go when their members' turn comes: a cell
        # goes to the cell that has the owners which its own owners go to.
        for number, family in enumerate(self.families):
            own, owners = slots.get(number), moves[family.owners]
            if own is None and np.array_equal(owners, family.owners):
                continue  # it stays, as do the places of a kernel: most families of a convolution
            target = _find_rows(family.owners, owners)
            picked = np.arange(family.size)[None, :] if own is None else own
            moves[family.cells] = family.cells[target[:, None], picked]
        return moves

    def slots(self, moves: Ints, number: int) -> Ints:
        """The permutations inside the cells of one family that make up ``moves``.

        Args:
            moves: As :meth:`moves` gives it.
            number: The family.

        Returns:
            (num_cells, size) slots, as :meth:`moves` takes them.
        """
        return self.slot_of[moves[self.families[number].cells]]


def _find_rows(rows: Ints, wanted: Ints) -> Ints:
    """The index in ``rows`` of every row of ``wanted``."""
    if np.array_equal(rows, wanted):
        return np.arange(len(rows), dtype=np.int64)
    keys, queries = row_keys(rows), row_keys(wanted)
    order = np.argsort(keys)
    position = np.searchsorted(keys[order], queries)
    found = order[np.minimum(position, len(order) - 1)]
    if not np.array_equal(rows[found], wanted):
        raise StructureError("owners of a family do not move together")
    return found.astype(np.int64)


def cycles(shape: tuple[int, ...], generator: np.random.Generator) -> Ints:
    """Random permutations of the slots, each one cycle through a whole row: every slot moves.

    Args:
        shape: (rows, slots).
        generator: Draws the order of each cycle.
    """
    order = generator.permuted(np.broadcast_to(np.arange(shape[1]), shape).copy(), axis=1)
    slots = np.empty(shape, np.int64)
    np.put_along_axis(slots, order, np.roll(order, 1, axis=1), axis=1)
    return slots


def structure_of(families: list[UnitFamily]) -> Structure:
    """The structure made of some families.

    Args:
        families: Owners before members; their cells number the units 0, 1, … once each.

    Raises:
        StructureError: If they do not.
    """
    units = (
        np.concatenate([f.cells.ravel() for f in families]) if families else np.empty(0, np.int64)
    )
    count = len(units)
    if not np.array_equal(np.sort(units), np.arange(count)):
        raise StructureError("the families do not number the units one to one (not a bijection)")
    family_of, cell_of, slot_of = (np.empty(count, np.int64) for _ in range(3))
    for number, family in enumerate(families):
        family_of[family.cells] = number
        cell_of[family.cells] = np.arange(len(family.cells))[:, None]
        slot_of[family.cells] = np.arange(family.size)[None, :]
    return Structure(families, family_of, cell_of, slot_of)
