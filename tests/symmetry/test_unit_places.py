"""Places of units, named so that the names do not depend on where owners stand."""

from __future__ import annotations

import numpy as np

from dimat.symmetry.labels.structure import UnitFamily, structure_of
from dimat.symmetry.unit_places import unit_places

KEYS = UnitFamily(np.array([[0, 1]]), np.empty((1, 0), np.int64), ())
QUERIES = UnitFamily(np.array([[2, 3], [4, 5]]), np.array([[0], [1]]), (0,))
DIMENSIONS = UnitFamily(np.arange(6, 14).reshape(4, 2), np.array([[2], [3], [4], [5]]), (1,))


def test_what_owners_of_owners_have_corresponds_place_by_place() -> None:
    """Two keys with two queries each, of two dimensions: four places of a key, in any order."""
    structure = structure_of([KEYS, QUERIES, DIMENSIONS])
    units = np.arange(6, 14)
    order = np.array([5, 0, 3, 6, 1, 7, 2, 4])
    standing = np.repeat([0, 1], 4)
    places = unit_places(structure, 0, units[order], standing[order])
    assert places is not None
    seen = units[order][places]
    assert sorted(map(tuple, seen.T.tolist())) == [(6, 10), (7, 11), (8, 12), (9, 13)]
