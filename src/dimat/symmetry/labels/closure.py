"""Closure of the facts that the rules recorded: step 1 of solving."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dimat.symmetry.labels.row_hash import distinct, row_keys
from dimat.symmetry.labels.units import Ints, Units


@dataclass(frozen=True)
class Facts:
    """The facts about units, with all that follows from them.

    Args:
        number: For every unit of the rules its number; units that are the same share one.
        rows: (n, 3) relation, member, owner, between numbers; sorted, without repeats. Relations
            below 0 were derived.
        body: For every number the least number of its body: numbers that own each other, directly
            or around a circle, so that each determines the places of the others.
    """

    number: Ints
    rows: Ints
    body: Ints

    @property
    def count(self) -> int:
        """Number of distinct units."""
        return len(self.body)


def close(units: Units) -> Facts:
    """The closure of the facts in a store of units: a fixed point of ties and derived owners.

    Args:
        units: The store; not changed.
    """
    pairs = [np.stack([a, b], 1) for a, b in units.same_pairs]
    same = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
    derived = np.empty((0, 3), np.int64)
    names: dict[tuple[int, int], int] = {}
    while True:
        number = _components(units.count, same)
        count = int(number.max(initial=-1)) + 1
        mapped = np.column_stack([derived[:, 0], number[derived[:, 1]], number[derived[:, 2]]])
        rows = distinct(np.concatenate([_owner_rows(units, number), mapped]))
        rows = rows[rows[:, 1] != rows[:, 2]]
        first = np.full(count, -1, np.int64)
        first[number[::-1]] = np.arange(units.count)[::-1]
        # Rows are sorted, so two owners of one member in one relation stand below each other. They
        # must be one unit: then the ties are closed again.
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


def _owner_rows(units: Units, number: Ints) -> Ints:
    """The owner facts of the rules as rows (relation, member, owner), between numbers."""
    if not units.owners:
        return np.empty((0, 3), np.int64)
    parts = [
        np.column_stack([np.full(len(m), relation), number[m], number[o]])
        for relation, m, o in units.owners
    ]
    return distinct(np.concatenate(parts))


def _components(count: int, pairs: Ints) -> Ints:
    """For every unit the number of its component in the graph of ties."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _bodies(count: int, rows: Ints) -> Ints:
    """For every number the least one of its body, whose numbers own each other in a circle."""
    graph = coo_array((np.ones(len(rows), np.int8), (rows[:, 1], rows[:, 2])), (count, count))
    label = connected_components(graph, directed=True, connection="strong")[1]
    least = np.full(int(label.max(initial=-1)) + 1, count, np.int64)
    np.minimum.at(least, label, np.arange(count))
    return least[label]


def _between_bodies(rows: Ints, body: Ints) -> Ints:
    """Owner facts between bodies, in which relations of equal content are one relation."""
    rows = distinct(np.column_stack([rows[:, 0], body[rows[:, 1:]]]))
    rows = rows[rows[:, 1] != rows[:, 2]]
    relations, index = np.unique(rows[:, 0], return_inverse=True)
    content = np.zeros(len(relations), np.uint64)
    np.add.at(content, index, row_keys(rows[:, 1:]))
    _, first, group = np.unique(content, return_index=True, return_inverse=True)
    return distinct(np.column_stack([relations[first[group[index]]], rows[:, 1:]]))


def _derive(rows: Ints, body: Ints, names: dict[tuple[int, int], int]) -> Ints:
    """New owner facts: where an owner's members all have one further owner, it belongs to that.

    All members of a query head, say, have one key head: then the query head belongs to the key
    head. Where that holds both ways, the two become one body.
    """
    rows = _between_bodies(rows, body)
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    empty = np.empty((0, 3), np.int64)
    joins: list[Ints] = []
    # Rows are sorted by member: rows ``shift`` apart pair its owners, until no member has so many.
    for shift in range(1, len(rows)):
        a, b = rows[:-shift], rows[shift:]
        both = a[:, 1] == b[:, 1]
        if not both.any():
            break
        a, b = a[both], b[both]
        apart = a[:, 2] != b[:, 2]
        a, b = a[apart], b[apart]
        joins.append(np.column_stack([a[:, 0], b[:, 0], a[:, 2], b[:, 2]]))
        joins.append(np.column_stack([b[:, 0], a[:, 0], b[:, 2], a[:, 2]]))
    if not joins:
        return empty
    joined = distinct(np.concatenate(joins))
    _, index, counts = np.unique(row_keys(joined[:, :3]), return_index=True, return_counts=True)
    single = joined[index[counts == 1]]
    new = single[~np.isin(row_keys(single[:, 2:]), row_keys(rows[:, 1:]))]
    _, first, index = np.unique(row_keys(new[:, :2]), return_index=True, return_inverse=True)
    relation = np.empty(len(first), np.int64)
    for k in np.argsort(first):  # numbered in the order in which they come
        r, s = new[first[k], :2]
        relation[k] = names.setdefault((int(r), int(s)), -1 - len(names))
    return np.column_stack([relation[index], new[:, 2:]])
