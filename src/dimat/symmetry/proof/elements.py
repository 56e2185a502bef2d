"""Elements of a group that a proof tries, and their action on tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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

    def sources(self, labels: Labels) -> Sources:
        """The indices to read from, as the function of that name; found once for equal labels."""
        key = tuple(x if isinstance(x, Special) else (x.shape, x.tobytes()) for x in labels)
        if key not in self._sources:
            still = (None,) * len(labels)
            self._sources[key] = sources(labels, self.moves) if self._moves(labels) else still
        return self._sources[key]

    def _moves(self, labels: Labels) -> bool:
        """Whether some unit of the labels moves."""
        found = (not isinstance(x, Special) and self.moves[x] != x for x in labels)
        return any(bool(np.any(moved)) for moved in found)

    def take(self, value: Tensor, labels: Labels) -> Tensor:
        """A copy of a tensor with its entries moved."""
        return take(value, self.sources(labels))

    def sources_of(self, every: Sequence[Labels]) -> list[Sources] | None:
        """The indices to read from for several tensors; None if one of them cannot move so."""
        try:
            return [self.sources(labels) for labels in every]
        except StructureError:
            return None


def alike(some: Sequence[Sources], others: Sequence[Sources]) -> bool:
    """Whether tensors labeled in two ways are moved in the same way."""
    pairs = zip(some, others, strict=True)
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


def swaps(
    s: Solution, generator: np.random.Generator, meetings: Iterable[frozenset[int]]
) -> list[Ints]:
    """Elements that swap two units in some of the cells, such that cells that meet are told apart.

    Cells are numbered, and element b swaps in those whose number has bit b. If all cells moved at
    once, a tie that a rule forgot between two groups of two would not show, nor what only an odd
    permutation changes (a determinant). Cells that no operator has to do with both at once may
    have one number, as operators are compared one by one.

    Args:
        s: The group.
        generator: Draws the two units of each cell.
        meetings: For each operator the families of the units on its operands and results.
    """
    numbers = _numbers(s, meetings)
    last = max((own[-1] for own in numbers.values()), default=0)
    found = []
    for bit in range(last.bit_length()):
        slots = {}
        for k, cells in numbers.items():
            f = s.structure.families[k]
            own = np.broadcast_to(np.arange(f.size), f.cells.shape).copy()
            for c, number in enumerate(cells):
                if number >> bit & 1:
                    i, j = generator.choice(f.size, 2, replace=False)
                    own[c, [i, j]] = own[c, [j, i]]
            slots[k] = own
        found.append(s.structure.moves(slots))
    return found


def _numbers(s: Solution, meetings: Iterable[frozenset[int]]) -> dict[int, range]:
    """The numbers, from 1, of the cells of each family that moves.

    They are as low as they can be where families that meet share none.
    """
    families = s.structure.families
    met: dict[int, set[int]] = {}
    for own in meetings:
        moving = {k for n in own for k in s.structure.above[n] if families[k].size > 1}
        for k in moving:
            met.setdefault(k, set()).update(moving)
    found: dict[int, range] = {}
    for k in sorted(met):
        start, count = 1, len(families[k].cells)
        for taken in sorted((found[n] for n in met[k] if n in found), key=lambda r: r.start):
            if start + count <= taken.start:
                break
            start = max(start, taken.stop)
        found[k] = range(start, start + count)
    return found


def _equal(a: Ints | None, b: Ints | None) -> bool:
    """Whether an axis is read alike; None where nothing moves."""
    return a is b if a is None or b is None else np.array_equal(a, b)
