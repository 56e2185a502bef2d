"""Padding of a state with silent units, and the entries of them that may be filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from dimat.checkpoints.widths.units import Bools, common_units, entry_masks
from dimat.graph.trace import operator_name
from dimat.state import State
from dimat.symmetry import Analysis
from dimat.symmetry.labels.units import Special
from dimat.text import brief

# Axes of an operand that are summed over, by operator and place among its arguments. Entries of
# any other operand stay zero in all of a silent unit.
_READ: Mapping[tuple[str, int], frozenset[int]] = {
    **{(f"aten.{op}", 1): frozenset({1}) for op in ("linear", "conv1d", "conv2d", "conv3d")},
    **{(f"aten.conv_transpose{n}d", 1): frozenset({0}) for n in (1, 2, 3)},
    ("aten.embedding", 0): frozenset(),
}
_RECURRENT = frozenset({"aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu"})
_BY_UNIT = frozenset({"aten.add", "aten.mul"})
_EVERY = frozenset(range(64))  # more axes than a tensor has


@dataclass(frozen=True)
class Padding:
    """The places of a narrower state in a wider one.

    Args:
        common: For every entry the places that the narrower state has values for.
        free: For every entry the places in silent units that may hold any value: what a silent unit
            reads, but not what reads it, which is zero.
    """

    common: State
    free: State

    __repr__ = brief

    @property
    def note(self) -> str:
        """What was done, for a user."""
        if any(bool(own.any()) for own in self.free.values()):
            return "padded with silent units to the model's width"
        return (
            "padded with silent units to the model's width; they are averaged as zeros, as filling "
            "them was not proved to leave the outputs as they are"
        )

    def pad(self, state: Mapping[str, Tensor], noise: Mapping[str, Tensor] | None = None) -> State:
        """The wider state: zeros in silent units, and ones as the variance of their BatchNorm.

        Args:
            state: A narrower state.
            noise: A wider state, whose values free places get instead.
        """
        padded = {}
        for key, value in state.items():
            common = self.common[key].to(value.device)
            fill = 1 if key.endswith("running_var") else 0
            wide = value.new_full(common.shape, fill)
            wide[common] = value.reshape(-1)
            if noise is not None:
                wide = torch.where(self.free[key].to(value.device), noise[key].to(wide), wide)
            padded[key] = wide
        return padded

    def map(self, function: Callable[[State], State]) -> Padding:
        """The padding with its places moved.

        Args:
            function: A function of a state, such as a permutation of its units.
        """
        return Padding(function(self.common), function(self.free))


def padding_of(analysis: Analysis, state: Mapping[str, Tensor], who: str) -> Padding:
    """The padding of a narrower state to the shapes of a model.

    Args:
        analysis: Analysis of the wider model.
        state: A narrower state of its keys.
        who: Name of the state, for messages.

    Raises:
        StructureError: If an axis differs in its size, and not by whole units that may be added.
    """
    symmetry = analysis.symmetry
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    units = common_units(symmetry, shapes)
    common = entry_masks(symmetry, shapes, units, who)
    read = _read_axes(analysis)
    free = {}
    for key, mask in common.items():
        written = np.ones(mask.shape, np.bool_)
        for axis, label in enumerate(symmetry.axes[key]):
            if axis not in read.get(key, _EVERY) and not isinstance(label, Special):
                written = written & units[label]
        free[key] = ~mask & ~written
    return Padding(_tensors(common), _tensors(free))


def silent_units(analysis: Analysis, state: Mapping[str, Tensor]) -> Bools:
    """(units,) mask of the units that a narrower state lacks.

    Args:
        analysis: Analysis of the wider model.
        state: A narrower state of its keys.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    return ~common_units(analysis.symmetry, shapes)


def _tensors(masks: Mapping[str, Bools]) -> State:
    return {key: torch.tensor(np.asarray(mask)) for key, mask in masks.items()}


def _read_axes(analysis: Analysis) -> dict[str, frozenset[int]]:
    """For every entry the axes along which operators sum over it: of units that are read."""
    trace = analysis.trace
    found: dict[str, frozenset[int]] = {}
    for node in trace.graph.nodes:
        if node.name in trace.states:
            axes = [_read_by(user, node) for user in node.users]
            found[trace.states[node.name]] = frozenset().union(*axes)
    for alias, first in trace.aliases.items():
        if first in found:
            found[alias] = found[first]
    return found


def _read_by(user: fx.Node, node: fx.Node) -> frozenset[int]:
    """The axes of an entry over which a node sums; all, if that is not known."""
    name = operator_name(user.target) if user.op == "call_function" else ""
    places = [k for k, own in enumerate(user.args) if own is node]
    if list(user.all_input_nodes).count(node) != 1 or len(places) > 1:
        return _EVERY
    rank = len(node.meta["val"].shape)
    if not places:  # in a list, as the weights of recurrent layers are
        return frozenset(range(1, rank)) if name in _RECURRENT else _EVERY
    if (name, places[0]) in _READ:
        return _READ[name, places[0]]
    by_unit = name in _BY_UNIT or (rank == 1 and ("norm" in name or (name, 1) in _READ))
    return frozenset() if by_unit else _EVERY
