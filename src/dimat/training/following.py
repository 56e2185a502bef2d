"""Taking a merge over: the model, the optimizer and entries of the user's own; all or nothing."""

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
    """A change that is prepared beside the values that it will replace, and can be undone."""

    def swap(self) -> None:
        """Put the new values in place; called a second time, put the old ones back."""


class _EntriesChange:
    """Registered entries of the user's own: their values before the merge and after it."""

    def __init__(self, get: Get, set: Set, move: Move) -> None:
        self._before: Mapping[str, Tensor] = clone(get())
        self._after, self._set = move(self._before), set

    def swap(self) -> None:
        """Call the user's ``set`` with the other values; the swap counts even if ``set`` fails."""
        self._before, self._after = self._after, self._before
        self._set(self._before)


@dataclass(frozen=True)
class Followers:
    """The model, optimizer and registered entries of an agent, which follow each of its merges.

    Args:
        model: The agent's model.
        optimizer: The optimizer of the model's parameters; None if there is none.
        calls: Calibration batches, on which BatchNorm statistics are recomputed.
        recalibration: auto: BatchNorm statistics are recomputed unless the merge fits them itself;
            batchnorm: always; none: never.
        symmetry: Gives the model's symmetry; called only where units move.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    calls: Calls
    recalibration: str
    symmetry: Callable[[], Symmetry]
    _registered: dict[str, tuple[Get, Set]] = field(default_factory=dict)

    def register(self, name: str, get: Get, set: Set) -> None:
        """Register entries that follow the units; see :meth:`dimat.Agent.register`."""
        if name in self._registered:
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
        self._registered[name] = get, set

    def take_over(self, result: RoundResult, before: State) -> None:
        """Load the merged state, recalibrate, move the entries that follow; undone if one fails.

        Args:
            result: The result of the agent's merge.
            before: The model's state before the merge, which is restored on failure.
        """
        changes = self._changes(result)
        with ExitStack() as undo:
            undo.callback(_restorer(self.model, before))
            put_into(self.model, result.state, part=True)  # others are not exchanged
            if self._recalibrates(result):
                self.calls.recalibrate(self.model)
            for change in changes:
                undo.callback(change.swap)
                change.swap()
            undo.pop_all()

    def _changes(self, result: RoundResult) -> list[Change]:
        """Prepared changes of all that moves with the units; nothing is changed yet."""
        move = result.permutation
        if move is None:
            return []
        symmetry = self.symmetry()

        def apply(entries: Mapping[str, Tensor]) -> State:
            return symmetry.apply(move, entries)

        changes: list[Change] = [
            _EntriesChange(get, set, apply) for get, set in self._registered.values()
        ]
        if self.optimizer is not None:
            changes.append(plan_memory(self.optimizer, self.model, apply))
        return changes

    def _recalibrates(self, result: RoundResult) -> bool:
        if not result.mixed or self.recalibration == "none":
            return False
        return self.recalibration == "batchnorm" or not result.calibrated


def _restorer(model: nn.Module, state: State) -> Callable[[], None]:
    """A function that restores a model's present state, hidden buffers and training modes."""
    modes = {module: module.training for module in model.modules()}
    hidden = {name: x.detach().clone() for name, x in model.named_buffers() if name not in state}

    def restore() -> None:
        own = {**dict(model.named_buffers()), **model.state_dict(keep_vars=True)}
        with torch.no_grad():
            for name, value in {**hidden, **state}.items():
                if isinstance(value, Tensor):  # a state may hold more
                    own[name].copy_(value)
        for module, mode in modes.items():
            module.training = mode

    return restore
