"""Where in the parameters the units of a group stand, and their entries as rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dimat.matching.unit_axes import UnitAxes, seats
from dimat.state import as_real
from dimat.symmetry import Analysis


@dataclass(frozen=True, eq=False)
class ParameterSlice:
    """All units of a group on one axis of a parameter.

    Args:
        key: Of the parameter.
        seat: Where on it they stand.
        entries: How many of the parameter's entries are compared.
    """

    key: str
    seat: UnitAxes
    entries: int

    @property
    def group(self) -> str:
        """Name of the group."""
        return self.seat.group

    @cached_property
    def others(self) -> frozenset[str]:
        """The groups that move the rest of these entries."""
        return self.seat.others

    def rows(self, value: Tensor) -> Tensor:
        """(units, places x rest) from the parameter's value, at least float32, complex as pairs."""
        index, axes = self.seat.index, self.seat.axes
        wide = value.detach().to(torch.promote_types(value.dtype, torch.float32))
        front = wide.movedim(axes, tuple(range(len(axes))))
        flat = front.reshape(math.prod(front.shape[: len(axes)]), -1)
        if len(flat) != index.size or not self._in_order:
            flat = flat[torch.from_numpy(index.ravel()).to(flat.device)]
        return as_real(flat).reshape(len(index), -1)

    @cached_property
    def _in_order(self) -> bool:
        return np.array_equal(self.seat.index.ravel(), np.arange(self.seat.index.size))


def parameter_keys(analysis: Analysis) -> list[str]:
    """The parameters, tied ones once; every entry if the trace knows of no parameter."""
    axes, trace = analysis.symmetry.axes, analysis.trace
    return [
        key
        for key in axes
        if key not in trace.aliases and (not trace.parameters or key in trace.parameters)
    ]


def terms_of(analysis: Analysis) -> tuple[ParameterSlice, ...]:
    """Every group on every axis of every parameter, in the order of the state."""
    symmetry = analysis.symmetry
    return tuple(
        ParameterSlice(key, seat, seat.index.size * _rest(symmetry.shapes[key], seat.axes))
        for key in parameter_keys(analysis)
        for seat in seats(symmetry, symmetry.axes[key])
    )


def _rest(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(n for i, n in enumerate(shape) if i not in axes)
