"""Groups of units, and the permutations that are elements of a symmetry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dimat.symmetry.labels.units import Ints
from dimat.text import brief, counted


@dataclass(frozen=True)
class Group:
    """One group of units that may be permuted.

    Args:
        name: That of the first module whose parameter it moves, or the name given by hand.
        size: Number of units that are permuted among themselves.
        cells: Number of such sets, each with a permutation of its own: 1 for a plain group, the
            number of heads for the dimensions inside heads.
        over: Names of the groups whose units the cells belong to (empty for a plain group).
        members: (state key, axis) pairs that the group acts on.
    """

    name: str
    size: int
    cells: int
    over: tuple[str, ...]
    members: tuple[tuple[str, int], ...]

    __repr__ = brief

    @property
    def kind(self) -> str:
        """``"units"``, or ``"inside …"`` with the groups that the cells belong to."""
        return f"inside {', '.join(self.over)}" if self.over else "units"


@dataclass(frozen=True)
class Permutation:
    """An element of a symmetry.

    Args:
        slots: For every group an int64 array (cells, size): ``slots[name][c, i]`` is the unit of
            cell c that comes to place i, so ``aligned[i] = theirs[slots[i]]`` in a plain group.
        digest: Digest of the symmetry that it is an element of.
    """

    slots: Mapping[str, Ints]
    digest: str

    def __repr__(self) -> str:
        """The number of units that it orders, and the share of them that moves."""
        units = sum(own.size for own in self.slots.values())
        groups = counted(len(self.slots), "group")
        return f"Permutation({groups}, {units:,} units, {100 * self.moved:.3g} % moved)"

    @property
    def num_bytes(self) -> int:
        """Bytes that a message of its slots takes, as 32-bit integers."""
        return sum(4 * int(x.size) for x in self.slots.values())

    @property
    def moved(self) -> float:
        """Share of units that are not in their own place, in [0, 1]."""
        total = sum(x.size for x in self.slots.values())
        still = sum(int((x == np.arange(x.shape[1])).sum()) for x in self.slots.values())
        return 1.0 - still / total if total else 0.0
