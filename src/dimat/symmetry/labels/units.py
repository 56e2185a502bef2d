"""Units and the facts that tie them together: the algebra in which all rules are written.

A *unit* is a number that names one index of one axis: hidden channel 7, head 2, dimension 3 of
head 2. Every axis of every tensor in the graph is *labeled* with units, and a symmetry is a
permutation of all units that respects three kinds of fact, which the rules record here:

* :meth:`Units.same`: two axes carry the same units (a residual sum, a contraction);
* :meth:`Units.belong`: a unit belongs to another (a channel to its group, a head dimension to its
  head, an entry of a flattened axis to its channel *and* its place): where the owner goes, it goes;
* :meth:`Units.pin`: a unit stays where it is (inputs, outputs, anything under an unknown operator).

Concatenation, slicing, reshaping, grouping and nesting need nothing more: a slice of an axis has
units of its own to which the sliced ones belong; the axis (C·H·W) of a flattened tensor has units
that belong to a channel and to a fixed place; the axis of a grouped convolution belongs to groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Special(Enum):
    """A label that names no units."""

    FIXED = "fixed"  # every index stays where it is
    ANY = "any"  # the tensor is constant along this axis: any permutation leaves it as it is


FIXED: Final = Special.FIXED
UNREAD: Final = "forward does not read it"  # the reason of entries that no graph reads
ANY: Final = Special.ANY

# The units along one axis. The array has as many dimensions as the tensor: its own axis has full
# length, every other is 1, or full length where the units depend on it (dimension d *of head h*).
Label = Ints | Special
Labels = tuple[Label, ...]


class Inherent(StrEnum):
    """A reason that lies in the meaning of an axis, not in what the rules fail to see.

    A better rule would not free such an axis, so it is not among the pins that a symmetry reports.
    The values are the words of the rules, which a user reads in :meth:`Symmetry.explain`.
    """

    OUTPUT = "an output of the model"
    KERNEL = "a kernel axis"
    SPATIAL = "a spatial axis"
    TIED = "tied to a fixed axis"
    LOOKED_UP = "looked up by index"
    GATES = "gates have an order"
    TIME = "time has an order"


_INHERENT = frozenset(member.value for member in Inherent)


@dataclass(frozen=True)
class Pin:
    """The cause that holds some units in their places.

    Args:
        operator: Name of the operator whose rule pins them; empty for the solver's own pins.
        where: Name of that operator's node in the graph, or the state key that is written.
        why: The reason, in words for the user.
    """

    operator: str
    where: str
    why: str

    @property
    def inherent(self) -> bool:
        """Whether the reason is one of :class:`Inherent`."""
        return self.why in _INHERENT


@dataclass
class Units:
    """Store of units and of the facts about them: rules add facts, :func:`solve` reads them.

    Attributes:
        count: Number of units.
        same_pairs: Pairs of arrays whose units are the same, entry by entry.
        owners: (relation, members, owners): each member belongs to its owner.
        pins: Units that stay where they are.
        held: Units that stay along one axis only, and move with their owners along others.
        origins: State key and axis of the first unit of a label that came from a parameter.
        wanted: (state key, axis, other axis): the units of ``axis`` should depend on ``other``, so
            that the rules tie fewer of them when they run again.
        context: Operator, node and default reason of the pins that the current rule makes.
    """

    count: int = 0
    same_pairs: list[tuple[Ints, Ints]] = field(default_factory=list)
    owners: list[tuple[int, Ints, Ints]] = field(default_factory=list)
    pins: list[tuple[Ints, Pin]] = field(default_factory=list)
    held: list[tuple[Ints, Pin]] = field(default_factory=list)
    origins: dict[int, tuple[str, int]] = field(default_factory=dict)
    wanted: set[tuple[str, int, int]] = field(default_factory=set)
    context: Pin = field(default_factory=lambda: Pin("", "", ""))
    _num_relations: int = 0
    _places: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    _products: dict[int, tuple[tuple[int, ...], Labels]] = field(default_factory=dict)

    def fresh(self, shape: int | Sequence[int]) -> Ints:
        """An array of new units, of which no fact is known yet."""
        size = int(np.prod(shape))
        units = np.arange(self.count, self.count + size, dtype=np.int64).reshape(shape)
        self.count += size
        return units

    def places(self, count: int) -> Ints:
        """Pinned units 'place 0, 1, …' that tell the indices of fixed axes apart.

        All fixed axes share them: a unit that belongs to place 3 keeps index 3.
        """
        if count > len(self._places):
            more = self.fresh(count - len(self._places))
            self.pins.append((more, Pin("", "", "a place")))
            self._places = np.concatenate([self._places, more])
        return self._places[:count]

    def relation(self) -> int:
        """Number of a new relation, within which every unit has one owner."""
        self._num_relations += 1
        return self._num_relations

    def belong(self, units: Ints, owners: Ints, relation: int | None = None) -> None:
        """Record that ``units`` belong to ``owners``: where an owner goes, its units go.

        Args:
            units: The members.
            owners: Their owners; both arrays are broadcast against each other.
            relation: An existing relation to add to; None for a new one.
        """
        a, b = np.broadcast_arrays(units, owners)
        number = self.relation() if relation is None else relation
        self.owners.append((number, a.ravel().copy(), b.ravel().copy()))

    def pin(self, label: Label, why: str, axis: int = 0) -> None:
        """Record that the units of ``label`` stay where they are along its own ``axis``.

        Units that depend on further axes keep their place along ``axis`` only: dimension 3 of a
        head stays dimension 3, of whichever head it is.

        Args:
            label: The label of one axis.
            why: The reason; that of :attr:`context` if empty.
            axis: The axis that the label is of.
        """
        if isinstance(label, Special) or not label.size:
            return
        pin = Pin(self.context.operator, self.context.where, why or self.context.why)
        label = squeeze_constant(label, keep=axis)
        n = label.shape[axis]
        if label.size > n:
            self.belong(label, self.places(n).reshape(along(axis, label.ndim, n)))
            self.held.append((np.unique(label), pin))
        else:
            self.pins.append((np.unique(label), pin))

    # --- ties -----------------------------------------------------------------------------------

    def same(self, a: Label, b: Label, why: str = "", axis: int = 0) -> Label:
        """Tie two labels of one axis to each other.

        Where one of them depends on more axes than the other, its units belong to the other's:
        adding a bias shared by all heads makes all heads permute alike.

        Args:
            a: One label.
            b: The other, in the frame of the same tensor.
            why: The reason of the pin, should one of both be fixed.
            axis: The axis that both are labels of.

        Returns:
            The label of the result.
        """
        if a is ANY or a is b:
            return b
        if b is ANY:
            return a
        if isinstance(a, Special) or isinstance(b, Special):
            self.pin(b if isinstance(a, Special) else a, why or Inherent.TIED.value, axis)
            return FIXED
        a, b = squeeze_constant(a), squeeze_constant(b)
        if a.shape == b.shape:
            return self._same_shaped(a, b)
        shared = tuple(min(m, n) for m, n in zip(a.shape, b.shape, strict=True))
        if shared == b.shape:
            self.belong(a, b)
            return b
        if shared == a.shape:
            self.belong(b, a)
            return a
        common = self.fresh(shared)
        self.belong(a, common)
        self.belong(b, common)
        return common

    def _same_shaped(self, a: Ints, b: Ints) -> Ints:
        """Tie two arrays of units entry by entry; where units repeat, the others belong to them.

        Units repeat where one key head serves several query heads.
        """
        if np.array_equal(a, b):
            return a
        distinct = len(np.unique(a)), len(np.unique(b))
        if distinct[0] == distinct[1]:
            self.same_pairs.append((a.ravel(), b.ravel()))
            return a
        more, fewer = (a, b) if distinct[0] > distinct[1] else (b, a)
        self.belong(more, fewer)
        return fewer

    def independent(self, label: Label, of: Iterable[int], axis: int) -> Label:
        """The label with its units tied along the axes ``of``, so that it varies there no more.

        Args:
            label: The label of ``axis``.
            of: Axes along which its units become the same.
            axis: The axis of the label, along which they stay apart.
        """
        if isinstance(label, Special):
            return label
        label = squeeze_constant(label)
        shape = tuple(1 if i in set(of) - {axis} else n for i, n in enumerate(label.shape))
        if shape == label.shape:
            return label
        common = self.fresh(shape)
        self.belong(label, common)
        return common

    # --- shapes ---------------------------------------------------------------------------------

    def split(
        self, labels: Labels, shape: Sequence[int], axis: int, sizes: Sequence[int]
    ) -> Labels:
        """Labels after ``unflatten(axis, sizes)``: the inner units belong to the outer ones.

        Args:
            labels: Labels of the tensor before.
            shape: Its shape.
            axis: The axis that is split.
            sizes: Sizes of the axes that it becomes.
        """
        widened = tuple(self._spread(x, axis, sizes, i) for i, x in enumerate(labels))
        own = labels[axis]
        before, after = widened[:axis], widened[axis + 1 :]
        return (*before, *self._factors(own, shape, axis, sizes), *after)

    def merge(self, labels: Labels, shape: Sequence[int], start: int, stop: int) -> Labels:
        """Labels after flattening the axes ``start … stop - 1`` into one.

        Args:
            labels: Labels of the tensor before.
            shape: Its shape.
            start: The first axis.
            stop: One more than the last.
        """
        full = tuple(shape[start:stop])
        moving = [i for i in range(start, stop) if shape[i] > 1]
        rest = [i for i in range(len(shape)) if not start <= i < stop]

        def flat(label: Label) -> Label:
            if isinstance(label, Special):
                return label
            return flatten_axes(label, full, start, stop)

        inner = [labels[i] for i in moving]
        if len(moving) <= 1:
            own = flat(inner[0]) if moving else FIXED
        elif all(x is FIXED for x in inner) or all(x is ANY for x in inner):
            own = inner[0]
        else:
            own = self._product(labels, shape, start, stop)
        merged = {i: flat(labels[i]) for i in rest}
        return (
            *(merged[i] for i in rest if i < start),
            own,
            *(merged[i] for i in rest if i >= stop),
        )

    def _spread(self, label: Label, axis: int, sizes: Sequence[int], own: int) -> Label:
        """The label of the axis ``own`` once another one, ``axis``, is split."""
        if isinstance(label, Special) or own == axis:
            return label
        n = label.shape[axis]
        inserted = tuple(sizes) if n > 1 else (1,) * len(sizes)
        return squeeze_constant(
            label.reshape(*label.shape[:axis], *inserted, *label.shape[axis + 1 :]),
            keep=own if own < axis else own + len(sizes) - 1,
        )

    def _factors(self, own: Label, shape: Sequence[int], axis: int, sizes: Sequence[int]) -> Labels:
        """The labels of the axes that ``axis``, labeled ``own``, is split into."""
        if isinstance(own, Special):
            return (own,) * len(sizes)
        known = self._products.get(int(own.flat[0]))
        # What was flattened before comes apart into the units that it was made of.
        if known is not None and known[0] == tuple(sizes) and own.size == np.prod(sizes):
            rank = len(shape)
            return tuple(reframe(x, axis, rank) for x in known[1])
        block = own.reshape(*own.shape[:axis], *sizes, *own.shape[axis + 1 :])
        factors: list[Label] = []
        relation_of_inner = block
        moving = [k for k, size in enumerate(sizes) if size > 1]
        for k in range(len(sizes) - 1, -1, -1):
            if k not in moving:
                factors.append(FIXED)
            elif k == moving[-1]:
                factors.append(block)
            else:
                outer_shape = tuple(
                    1 if axis + k < i < axis + len(sizes) else n for i, n in enumerate(block.shape)
                )
                outer = self.fresh(outer_shape)
                origin = self.origins.get(int(own.flat[0]))
                if origin is not None:
                    self.origins[int(outer.flat[0])] = origin
                self.belong(relation_of_inner, outer)
                relation_of_inner = outer
                factors.append(outer)
        return tuple(reversed(factors))

    def _product(self, labels: Labels, shape: Sequence[int], start: int, stop: int) -> Label:
        """Units of a flattened axis: each belongs to one unit or place of every axis in it."""
        full = tuple(shape[start:stop])
        parts = [labels[i] for i in range(start, stop)]
        outside: list[int] = []
        for i in range(len(shape)):
            inside = start <= i < stop
            needed = any(not isinstance(x, Special) and x.shape[i] > 1 for x in parts)
            outside.append(shape[i] if inside or needed else 1)
        product = self.fresh(outside)
        for i, part in zip(range(start, stop), parts, strict=True):
            if shape[i] == 1 or part is ANY:
                continue
            owner = (
                self.places(shape[i]).reshape(along(i, len(shape), shape[i]))
                if isinstance(part, Special)
                else part
            )
            self.belong(product, owner)
        for i, n in enumerate(outside):  # units that differ along a further axis belong to it
            if n > 1 and not start <= i < stop and labels[i] is not ANY:
                constant = [k for k, m in enumerate(outside) if m == 1]
                label = self.independent(labels[i], constant, i)
                place = self.places(n).reshape(along(i, len(shape), n))
                self.belong(product, place if isinstance(label, Special) else label)
        own = flatten_axes(product, full, start, stop)
        alone = all(n == 1 for i, n in enumerate(outside) if not start <= i < stop)
        if alone and not any(part is ANY for part in parts):
            known = tuple(
                x if isinstance(x, Special) else x.reshape(x.shape[start:stop]) for x in parts
            )
            self._products[int(own.flat[0])] = (full, known)
        return own

    def take(self, labels: Labels, axis: int, index: Ints) -> Labels:
        """Labels after a slice: the units picked along ``axis`` belong to new ones.

        Args:
            labels: Labels of the tensor before.
            axis: The axis that is sliced.
            index: The indices that are picked, in their order.
        """
        own = labels[axis]
        if not isinstance(own, Special) and np.array_equal(index, np.arange(own.shape[axis])):
            return labels
        return tuple(self._taken(x, axis, index) for x in labels)

    def _taken(self, label: Label, axis: int, index: Ints) -> Label:
        if isinstance(label, Special) or label.shape[axis] == 1:
            return label
        picked = np.take(label, index, axis)
        taken = self.fresh(picked.shape)
        self.belong(picked, taken)
        return taken

    def join(self, parts: Sequence[Labels], shapes: Sequence[Sequence[int]], axis: int) -> Labels:
        """Labels of a concatenation along ``axis``: its units belong to those of its parts.

        The other axes may carry different units in every part: they then depend on ``axis``.

        Args:
            parts: Labels of every part.
            shapes: Shapes of the parts.
            axis: The axis along which they are joined.
        """
        rank = len(shapes[0])
        sizes = [s[axis] for s in shapes]
        return tuple(
            self._joined([p[axis] for p in parts], shapes, axis)
            if i == axis
            else self._across([self.independent(p[i], [axis], i) for p in parts], sizes, axis, i)
            for i in range(rank)
        )

    def _across(self, parts: Sequence[Label], sizes: Sequence[int], axis: int, own: int) -> Label:
        """The label of one axis of a concatenation other than the joined axis."""
        arrays = [x for x in parts if not isinstance(x, Special)]
        if len(arrays) < len(parts) or all(np.array_equal(x, arrays[0]) for x in arrays):
            label: Label = ANY
            for part in parts:
                label = self.same(label, part, "concatenated with a fixed axis", own)
            return label
        rows = []
        for place, part, size in zip(self.places(len(parts)), arrays, sizes, strict=True):
            units = self.fresh(part.shape)
            self.belong(units, part)
            self.belong(units, np.asarray(place))
            rows.append(np.repeat(units, size, axis))
        shape = tuple(
            np.broadcast_shapes(*((*x.shape[:axis], 1, *x.shape[axis + 1 :]) for x in rows))
        )
        spread = [
            np.broadcast_to(x, (*shape[:axis], n, *shape[axis + 1 :]))
            for x, n in zip(rows, sizes, strict=True)
        ]
        return squeeze_constant(np.concatenate(spread, axis), keep=own)

    def _joined(self, parts: Sequence[Label], shapes: Sequence[Sequence[int]], axis: int) -> Label:
        if all(x is FIXED for x in parts) or all(x is ANY for x in parts):
            return parts[0]
        rank = len(shapes[0])
        shape = [1] * rank
        for part in parts:
            if not isinstance(part, Special):
                shape = [max(m, n) for m, n in zip(shape, part.shape, strict=True)]
        shape[axis] = sum(s[axis] for s in shapes)
        joined = self.fresh(shape)
        start = 0
        for part, own_shape in zip(parts, shapes, strict=True):
            n = own_shape[axis]
            piece = np.take(joined, np.arange(start, start + n), axis)
            if part is FIXED:
                self.belong(piece, self.places(n).reshape(along(axis, rank, n)))
            elif not isinstance(part, Special):
                self.belong(piece, part)
            start += n
        return joined


def along(axis: int, rank: int, size: int) -> tuple[int, ...]:
    """The shape (1, …, size, …, 1) of an array along one axis."""
    return tuple(size if i == axis else 1 for i in range(rank))


def flatten_axes(array: Ints, full: tuple[int, ...], start: int, stop: int) -> Ints:
    """An array with the axes ``start … stop - 1`` flattened into one.

    Args:
        array: Units; along those axes of full length, or of length 1 where they do not vary.
        full: The full lengths of those axes.
        start: The first axis.
        stop: One more than the last.

    Returns:
        The array, of length 1 along the new axis if the units vary along none of the old ones.
    """
    if all(n == 1 for n in array.shape[start:stop]):
        return array.reshape(*array.shape[:start], 1, *array.shape[stop:])
    spread = np.broadcast_to(array, (*array.shape[:start], *full, *array.shape[stop:]))
    return spread.reshape(*array.shape[:start], -1, *array.shape[stop:])


def reframe(label: Label, axis: int, rank: int) -> Label:
    """A label of the axes that one axis was split into, in the frame of the whole tensor.

    Args:
        label: In the frame of the split axes alone.
        axis: Position of the axis that was split.
        rank: Number of axes that the tensor had before.
    """
    if isinstance(label, Special):
        return label
    return label.reshape((1,) * axis + label.shape + (1,) * (rank - axis - 1))


def squeeze_constant(label: Ints, keep: int | None = None) -> Ints:
    """A label of length 1 along every axis along which its units are the same anyway.

    Args:
        label: The label of one axis.
        keep: An axis that keeps its length in any case.
    """
    for i, n in enumerate(label.shape):
        if n > 1 and i != keep:
            first = np.take(label, [0], i)
            if np.array_equal(np.broadcast_to(first, label.shape), label):
                label = first
    return label
