"""The parameters of a model, sliced by the units of its groups."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from dimat.state import as_real
from dimat.symmetry import Analysis
from dimat.symmetry.unit_axes import UnitAxes, outer_groups, unit_axes


@dataclass(frozen=True, eq=False)
class ParameterSlice:
    """One parameter, sliced along one axis by the units of a group.

    Args:
        key: State key of the parameter.
        units: The positions of the group's units on it.
        entries: Number of the parameter's entries that belong to some unit.
    """

    key: str
    units: UnitAxes
    entries: int

    @property
    def group(self) -> str:
        """Name of the group."""
        return self.units.group

    @cached_property
    def others(self) -> frozenset[str]:
        """The other groups that move these entries: they have to be in order for a comparison."""
        return self.units.others

    def rows(self, value: Tensor) -> Tensor:
        """(units, entries of a unit) of the parameter, in float32 or wider, complex as pairs.

        Args:
            value: Value of the parameter.
        """
        index, axes = self.units.index, self.units.axes
        wide = value.detach().to(torch.promote_types(value.dtype, torch.float32))
        front = wide.movedim(axes, tuple(range(len(axes))))
        flat = front.reshape(math.prod(front.shape[: len(axes)]), -1)
        if len(flat) != index.size or not self._in_order:
            flat = flat[torch.from_numpy(index.ravel()).to(flat.device)]
        return as_real(flat).reshape(len(index), -1)

    @cached_property
    def _in_order(self) -> bool:
        return np.array_equal(self.units.index.ravel(), np.arange(self.units.index.size))


def parameter_keys(analysis: Analysis) -> list[str]:
    """State keys of the parameters, tied ones once, and without frozen ones.

    A trace that was made by hand may name no parameter: then these are the keys of all entries.

    Args:
        analysis: Analysis of the model.
    """
    axes, trace = analysis.symmetry.axes, analysis.trace
    return [
        key
        for key in axes
        if key not in trace.aliases
        and key not in trace.frozen
        and (not trace.parameters or key in trace.parameters)
    ]


@lru_cache(maxsize=4)
def parameter_slices(analysis: Analysis) -> ParameterSlices:
    """The slices of a model's parameters, found once for a model and remembered.

    For ResNet-20 that takes as long as to match a pair of states (0.1 s on one core).

    Args:
        analysis: Analysis of the model.
    """
    return ParameterSlices(analysis)


class ParameterSlices:
    """All slices of a model's parameters, by group; the same for all its states.

    Args:
        analysis: Analysis of the model.

    Attributes:
        every: Every group on every axis of every parameter, in the order of the state.
        outer: For each group those that its cells belong to.
    """

    def __init__(self, analysis: Analysis) -> None:
        symmetry = self.symmetry = analysis.symmetry
        keys = parameter_keys(analysis)
        self.every = tuple(
            ParameterSlice(key, own, own.index.size * _rest(symmetry.shapes[key], own.axes))
            for key in keys
            for own in unit_axes(symmetry, symmetry.axes[key])
        )
        self.outer = outer_groups(symmetry)
        self._keys = {g.name: {key for key, _ in g.members} & set(keys) for g in symmetry.groups}

    @cached_property
    def blocks(self) -> tuple[frozenset[str], ...]:
        """The groups in the order of the state, those that belong to one another in one set.

        The groups of a block are matched together.
        """
        found: list[frozenset[str]] = []
        for name in self.symmetry.names:
            new = frozenset({name}) | self.outer[name]
            for block in [b for b in found if b & new]:
                found.remove(block)
                new |= block
            found.append(new)
        first = {name: k for k, name in enumerate(self.symmetry.names)}
        return tuple(sorted(found, key=lambda block: min(first[name] for name in block)))

    def near(self, block: frozenset[str]) -> list[frozenset[str]]:
        """The blocks that a step of one may let gain: those with a parameter that it moves too.

        Args:
            block: One of the blocks, which is among them.
        """
        keys = self.moved_by(block)
        return [own for own in self.blocks if self.moved_by(own) & keys]

    def of(self, names: Collection[str]) -> list[ParameterSlice]:
        """The slices of some groups.

        Args:
            names: Names of the groups.
        """
        return [own for own in self.every if own.group in names]

    def moved_by(self, names: Iterable[str]) -> set[str]:
        """State keys of the parameters that some groups move.

        Args:
            names: Names of the groups.
        """
        return set().union(*(self._keys[name] for name in names))


def _rest(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Number of entries of a tensor at one position of some axes."""
    return math.prod(n for i, n in enumerate(shape) if i not in axes)
