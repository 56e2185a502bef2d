"""What follows a merge: model, optimizer, and what else the user has; all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from dimat.checkpoints.batches import Calls
from dimat.errors import ConfigError, check_kind, nearest_key, shown
from dimat.merging.optimizer import plan_memory
from dimat.merging.remembered import Move
from dimat.methods import RoundResult
from dimat.state import State, clone, put_into
from dimat.symmetry import Symmetry

Get = Callable[[], Mapping[str, Tensor]]
Set = Callable[[Mapping[str, Tensor]], object]


class Change(Protocol):
    """Something that was made ready beside what it is to replace."""

    def swap(self) -> None:
        """Put it in place; a second time: put back what was there."""


class _Given:
    """Entries of the user's own, as they are and as they will be."""

    def __init__(self, get: Get, set: Set, move: Move) -> None:
        self._before: Mapping[str, Tensor] = clone(get())
        self._after, self._set = move(self._before), set

    def swap(self) -> None:
        """Hand the user what is next; that it failed does not matter for the way back."""
        self._before, self._after = self._after, self._before
        self._set(self._before)


@dataclass(frozen=True)
class Followers:
    """All that changes at an agent when a merge is taken over.

    Args:
        model: The agent's.
        optimizer: Of its parameters, if it has one.
        calls: Calibration batches.
        recalibration: auto: BatchNorm statistics are recomputed unless the merge fits them itself;
            batchnorm: always; none: never.
        symmetry: Of the model; asked for where units move.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    calls: Calls
    recalibration: str
    symmetry: Callable[[], Symmetry]
    _given: dict[str, tuple[Get, Set]] = field(default_factory=dict)

    def register(self, name: str, get: Get, set: Set) -> None:
        """Have entries follow; see :meth:`dimat.Agent.register`."""
        if name in self._given:
            raise ConfigError(f"'{name}' is registered already: give another name")
        for role, given in (("get", get), ("set", set)):
            if not callable(given):
                raise ConfigError(f"'{role}' of '{name}' is {shown(given)}: must be a function")
        known = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        entries = get()
        check_kind(f"what get() gives of {name}", entries, Mapping, "tensors by name")
        for key, value in entries.items():
            if key not in known or known[key].shape != value.shape:
                expected = tuple(known[key].shape) if key in known else "no such entry"
                near = "" if key in known else nearest_key(key, known)
                raise ConfigError(
                    f"'{name}' has an entry '{key}' of shape {tuple(value.shape)}, and the model "
                    f"has {expected}: name entries as the model does{near}"
                )
        self._given[name] = get, set

    def take_over(self, merged: RoundResult, before: State) -> None:
        """Load, move, recalibrate; if anything fails, all is as it was.

        Args:
            merged: What the merge gave.
            before: The model's state now.
        """
        changes = self._changes(merged)
        with ExitStack() as undo:
            undo.callback(_way_back(self.model, before))
            put_into(self.model, merged.state)
            if self._recalibrates(merged):
                self.calls.recalibrate(self.model)
            for change in changes:
                undo.callback(change.swap)
                change.swap()
            undo.pop_all()

    def _changes(self, merged: RoundResult) -> list[Change]:
        """What moves with the units, made ready; nothing is changed yet."""
        move = merged.permutation
        if move is None:
            return []
        symmetry = self.symmetry()

        def apply(entries: Mapping[str, Tensor]) -> State:
            return symmetry.apply(move, entries)

        changes: list[Change] = [_Given(get, set, apply) for get, set in self._given.values()]
        if self.optimizer is not None:
            changes.append(plan_memory(self.optimizer, self.model, apply))
        return changes

    def _recalibrates(self, merged: RoundResult) -> bool:
        if merged.disagreement is None or self.recalibration == "none":
            return False
        return self.recalibration == "batchnorm" or not merged.calibrated


def _way_back(model: nn.Module, state: State) -> Callable[[], None]:
    """Makes a model again what it is now: its entries (``state``), hidden buffers and modes."""
    modes = {module: module.training for module in model.modules()}
    hidden = {name: x.detach().clone() for name, x in model.named_buffers() if name not in state}

    def go_back() -> None:
        own = {**dict(model.named_buffers()), **model.state_dict(keep_vars=True)}
        with torch.no_grad():
            for name, value in {**hidden, **state}.items():
                if isinstance(value, Tensor):  # a state may hold more
                    own[name].copy_(value)
        for module, mode in modes.items():
            module.training = mode

    return go_back
