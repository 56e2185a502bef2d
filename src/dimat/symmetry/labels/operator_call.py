"""One operator call as a rule sees it, and the few primitives that most rules are made of."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import Tensor, fx

from dimat.compat import tree_leaves
from dimat.symmetry.labels.units import (
    ANY,
    FIXED,
    Ints,
    Label,
    Labels,
    Special,
    Units,
    squeeze_constant,
)

Result = Labels | tuple[Labels, ...]


@dataclass(frozen=True)
class Operand:
    """A tensor operand: the labels of its axes and its value in the example run.

    The value of an entry of the state has a shape and a dtype, but no numbers.
    """

    labels: Labels
    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of every axis, as plain integers."""
        return tuple(int(n) for n in self.value.shape)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return self.value.dim()


@dataclass(frozen=True)
class Call:
    """One operator call of a graph.

    Args:
        node: The node of the call.
        arguments: Its arguments by name; tensors are :class:`Operand`.
        result: Its value in the example run.
        units: The store that the rule adds facts to.
    """

    node: fx.Node
    arguments: dict[str, Any]
    result: Any
    units: Units

    def __getitem__(self, name: str) -> Any:
        """An argument by its name in the operator's schema; tensors are :class:`Operand`."""
        return self.arguments[name]

    def get(self, name: str) -> Any:
        """An argument by its name; None if the operator has no such argument."""
        return self.arguments.get(name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of every axis of the first result."""
        result = self.result if isinstance(self.result, Tensor) else self.result[0]
        return tuple(int(n) for n in result.shape)

    def axis(self, name: str, rank: int) -> int:
        """The axis that a dimension argument names, counted from the front.

        Args:
            name: Name of the argument.
            rank: Number of axes of the tensor that it counts in.
        """
        return int(self[name]) % rank if rank else 0

    def axes(self, name: str, rank: int) -> list[int]:
        """The axes that a dimension-list argument names; all axes if it is empty or None.

        Args:
            name: Name of the argument.
            rank: Number of axes of the tensor that it counts in.
        """
        given = self.get(name)
        if given is None or (isinstance(given, Sequence) and not given):
            return list(range(rank))
        return [int(i) % rank for i in (given if isinstance(given, Sequence) else [given])]

    def tensors(self) -> list[Operand]:
        """All tensor operands, in the order of the arguments."""
        leaves = tree_leaves(self.arguments, is_leaf=lambda x: isinstance(x, Operand))
        return [x for x in leaves if isinstance(x, Operand)]

    def pin(self, operand: Operand, axes: Sequence[int], why: str) -> None:
        """Record that the units along some axes of an operand cannot move.

        Args:
            operand: One of the call's operands.
            axes: Axes of it.
            why: The reason, in words for the user.
        """
        for i in axes:
            self.units.pin(operand.labels[i], why, i)

    def einsum(
        self,
        operands: Sequence[tuple[Operand | Labels, Sequence[Any]]],
        out: Sequence[Any],
        sizes: Sequence[tuple[int, ...]] = (),
    ) -> Labels:
        """Labels of a (generalized) Einstein sum: equal letters are tied, others summed over.

        Args:
            operands: Each with one letter per axis. An axis of size 1 broadcasts.
            out: Letters of the result.
            sizes: Shapes of operands that are given as bare labels.
        """
        shapes = list(sizes)
        labeled = [
            (op.labels, op.shape, tuple(letters))
            if isinstance(op, Operand)
            else (op, shapes.pop(0), tuple(letters))
            for op, letters in operands
        ]
        order = list(dict.fromkeys(x for _, _, letters in labeled for x in letters))
        tied: dict[Hashable, Label] = {}
        for letter in order:
            size = max(s[ls.index(letter)] for _, s, ls in labeled if letter in ls)
            label: Label = ANY
            for labels, shape, letters in labeled:
                if letter in letters and shape[letters.index(letter)] == size > 1:
                    lifted = _lift(labels[letters.index(letter)], letters, order)
                    self._want(label, lifted, labeled, letter, order)
                    self._want(lifted, label, labeled, letter, order)
                    label = self.units.same(label, lifted, "", order.index(letter))
            tied[letter] = label if size > 1 else FIXED
        dropped = [order.index(x) for x in order if x not in out]
        return tuple(
            _lift(self.units.independent(tied[x], dropped, order.index(x)), order, list(out))
            if x in tied
            else FIXED
            for x in out
        )

    def _want(
        self,
        dependent: Label,
        flat: Label,
        labeled: Sequence[tuple[Labels, tuple[int, ...], tuple[Hashable, ...]]],
        letter: Hashable,
        order: Sequence[Hashable],
    ) -> None:
        """Ask that a parameter's axis depend on another of its axes, to tie fewer units."""
        if isinstance(dependent, Special) or isinstance(flat, Special):
            return
        origin = self.units.origins.get(int(flat.flat[0]))
        if origin is None:
            return
        dependent, flat = squeeze_constant(dependent), squeeze_constant(flat)
        for i, (m, n) in enumerate(zip(dependent.shape, flat.shape, strict=True)):
            if m > 1 and n == 1:
                for labels, _, letters in labeled:
                    if order[i] in letters and letter in letters:
                        other = labels[letters.index(order[i])]
                        if isinstance(other, Special):
                            continue
                        source = self.units.origins.get(int(other.flat[0]))
                        if source is not None and source[0] == origin[0] and source != origin:
                            self.units.wanted.add((origin[0], origin[1], source[1]))

    def want(self, operand: Operand, axis: int, other: int) -> None:
        """Ask that one axis of a parameter depend on another: the rules then run again.

        Args:
            operand: A parameter, or what was only reshaped since; of others nothing is asked.
            axis: The axis whose units should differ along the other.
            other: The other axis.
        """
        labels = (operand.labels[axis], operand.labels[other])
        origins = [
            None if isinstance(x, Special) else self.units.origins.get(int(x.flat[0]))
            for x in labels
        ]
        if origins[0] and origins[1] and origins[0][0] == origins[1][0]:
            self.units.wanted.add((origins[0][0], origins[0][1], origins[1][1]))

    def broadcast(self, *operands: Operand) -> Labels:
        """Labels of an element-wise result: axes aligned from the right, as PyTorch broadcasts."""
        rank = max((x.rank for x in operands), default=0)
        letters = list(range(rank))
        return self.einsum([(x, letters[rank - x.rank :]) for x in operands], letters)


def _lift(label: Label, letters: Sequence[Hashable], order: Sequence[Hashable]) -> Label:
    """A label moved from the frame of the axes ``letters`` to that of the axes ``order``."""
    if isinstance(label, Special):
        return label
    shape = [label.shape[letters.index(x)] if x in letters else 1 for x in order]
    kept = [letters.index(x) for x in order if x in letters]
    rest = [i for i in range(len(letters)) if i not in kept]
    return np.transpose(label, kept + rest).reshape(shape)


def value_labels(value: Tensor) -> Labels:
    """Labels of a constant of the graph: ANY along an axis where it does not vary, else FIXED."""
    labels: list[Label] = []
    for i, n in enumerate(value.shape):
        uniform = n > 1 and bool((value == value.narrow(i, 0, 1)).all())
        labels.append(ANY if uniform else FIXED)
    return tuple(labels)


def indices(start: int, stop: int, step: int = 1) -> Ints:
    """The indices of a slice."""
    return np.arange(start, stop, step, dtype=np.int64)


def as_tuple(result: Result) -> tuple[Labels, ...]:
    """The labels of an operator's results, one tuple of labels a result."""
    several = bool(result) and isinstance(result[0], tuple)
    return cast(tuple[Labels, ...], result if several else (result,))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a node's value: one, those of several results, or none."""
    if isinstance(value, Tensor):
        return [value]
    return [x for x in value if isinstance(x, Tensor)] if isinstance(value, (tuple, list)) else []
