"""Elements of a group that a proof tries, and their action on tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dimat.errors import StructureError
from dimat.symmetry.labels.positions import Sources, sources, take
from dimat.symmetry.labels.solve import Solution
from dimat.symmetry.labels.structure import cycles
from dimat.symmetry.labels.units import Ints, Labels, Special


class Element:
    """An element that a proof tries, and its action on tensors.

    Args:
        moves: For every unit the unit that takes its place.
    """

    def __init__(self, moves: Ints) -> None:
        self.moves = moves
        self._sources: dict[object, Sources] = {}

    def moves_any(self, labels: Labels) -> bool:
        """Whether some unit of the labels moves."""
        found = (not isinstance(x, Special) and self.moves[x] != x for x in labels)
        return any(bool(np.any(moved)) for moved in found)

    def sources(self, labels: Labels) -> Sources:
        """The indices to read from, as the function of that name; found once for equal labels."""
        key = tuple(x if isinstance(x, Special) else (x.shape, x.tobytes()) for x in labels)
        if key not in self._sources:
            self._sources[key] = sources(labels, self.moves)
        return self._sources[key]

    def take(self, value: Tensor, labels: Labels) -> Tensor:
        """A copy of a tensor with its entries moved."""
        return take(value, self.sources(labels))

    def moves_alike(self, some: Sequence[Labels], others: Sequence[Labels]) -> bool:
        """Whether tensors labeled in two ways are moved in the same way."""
        try:
            pairs = [(self.sources(a), self.sources(b)) for a, b in zip(some, others, strict=True)]
        except StructureError:
            return False
        return all(len(a) == len(b) and all(map(_equal, a, b)) for a, b in pairs)


def random_moves(solution: Solution, generator: np.random.Generator) -> Ints:
    """A random element of the whole group that moves every unit that can move.

    Args:
        solution: The group.
        generator: Draws one cycle for every cell.
    """
    families = enumerate(solution.structure.families)
    return solution.structure.moves(
        {k: cycles(f.cells.shape, generator) for k, f in families if f.size > 1}
    )


def swaps(s: Solution, generator: np.random.Generator) -> list[Ints]:
    """Elements that swap two units in some of the cells, such that any two cells are told apart.

    Cells are numbered, and element b swaps in those whose number has bit b. If all cells moved at
    once, a tie that a rule forgot between two groups of two would not show, nor what only an odd
    permutation changes (a determinant).

    Args:
        s: The group.
        generator: Draws the two units of each cell.
    """
    families = [(k, f) for k, f in enumerate(s.structure.families) if f.size > 1]
    starts = np.cumsum([1, *(len(f.cells) for _, f in families)])
    found = []
    for bit in range(int(starts[-1] - 1).bit_length()):
        slots = {}
        for start, (k, f) in zip(starts, families, strict=False):
            own = np.broadcast_to(np.arange(f.size), f.cells.shape).copy()
            for c in range(len(own)):
                if (int(start) + c) >> bit & 1:  # cells are numbered from 1
                    i, j = generator.choice(f.size, 2, replace=False)
                    own[c, [i, j]] = own[c, [j, i]]
            slots[k] = own
        found.append(s.structure.moves(slots))
    return found


def _equal(a: Ints | None, b: Ints | None) -> bool:
    """Whether an axis is read alike; None where nothing moves."""
    return a is b if a is None or b is None else np.array_equal(a, b)
