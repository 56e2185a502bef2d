"""Entries of an optimizer's memory: those that move with the units of their parameter, and others.

An entry has the axes of its parameter (a momentum), some of them with the others summed over (a row
of Adafactor's factored second moment), or it is the same in every unit order (a step counter).
Anything else, such as the history of L-BFGS or a square preconditioner, is unknown: it is not moved
by guesswork.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dimat.errors import StructureError

Move = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
Sort = Literal["weights", "counter", "unknown"]
# Optimizers whose memory is made by their first step: a new one of them need not be made.
BEGIN_EMPTY = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
_PLAIN = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of an optimizer's memory of one parameter.

    Args:
        parameter: The parameter.
        name: Name of the parameter in the model.
        kind: Kind of the entry: momentum_buffer, exp_avg, step.
        value: Value of the entry, of any type.
    """

    parameter: Tensor
    name: str
    kind: str
    value: Any

    @property
    def sort(self) -> Sort:
        """The sort of the entry, as far as its shape tells."""
        if _counts(self.value) and (self.kind == "step" or not self.whole):
            return "counter"
        return "weights" if _spans(self.value, self.parameter) else "unknown"

    @property
    def whole(self) -> bool:
        """Whether the entry has a number for every weight."""
        return isinstance(self.value, Tensor) and self.value.shape == self.parameter.shape

    @property
    def square(self) -> bool:
        """Whether two axes of the parameter have one size, and shapes do not tell them apart."""
        return len(set(self.parameter.shape)) < self.parameter.dim()

    def moved(self, move: Move) -> Tensor | None:
        """The entry's value after a move of units; None if the move differs along a summed axis.

        Args:
            move: As :class:`MemoryMove` takes it.
        """
        value: Tensor = self.value
        if self.whole:
            return move({self.name: value})[self.name]
        places = torch.arange(value.numel(), device=value.device).view(value.shape)
        there = move({self.name: places.expand(self.parameter.shape)})[self.name]
        kept = there
        for axis, size in enumerate(value.shape):
            kept = kept if size > 1 else kept.narrow(axis, 0, 1)
        if not torch.equal(kept.expand_as(there), there):
            return None
        return value.flatten()[kept.flatten()].view(value.shape)


def entries(optimizer: torch.optim.Optimizer, model: nn.Module) -> Iterator[Entry]:
    """The entries of an optimizer's memory that are of a model's parameters.

    Args:
        optimizer: The optimizer.
        model: The model, which names the parameters.
    """
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for parameter, memory in optimizer.state.items():
        if isinstance(parameter, Tensor) and parameter in names:
            for kind, value in memory.items():
                yield Entry(parameter, names[parameter], kind, value)


def unknown(found: Collection[Entry]) -> list[Entry]:
    """The entries of which it is not known how they move.

    A square entry of a square parameter looks like a momentum; where other entries of its kind do
    not fit their parameters, it is none.

    Args:
        found: All entries of one optimizer.
    """
    misfits = {own.kind for own in found if own.sort == "unknown"}
    return [
        own
        for own in found
        if own.sort == "unknown" or (own.kind in misfits and own.square and own.sort == "weights")
    ]


def memory_entries(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[Entry]:
    """The entries with a number for every weight, of an optimizer that has only counters besides.

    Args:
        optimizer: The optimizer.
        model: The model, which names the parameters.

    Raises:
        StructureError: If it has other entries.
    """
    found = list(entries(optimizer, model))
    scalars = {own.kind for own in found if own.sort == "counter"}
    rest = [own for own in found if own.kind not in scalars]
    wrong = unknown(found) or [own for own in rest if not own.whole]
    if wrong:
        raise StructureError(
            f"{type(optimizer).__name__}: '{wrong[0].kind}' of '{wrong[0].name}' is no number for "
            "every weight, so that memories cannot be mixed: let each agent keep its own"
        )
    return rest


class MemoryMove:
    """The memory of an optimizer after a move of units, beside its present one.

    Args:
        optimizer: The optimizer; not changed until :meth:`swap`.
        model: The model, which names the parameters.
        move: A function that takes entries by state key and returns them moved, as
            ``Symmetry.apply`` does.

    Attributes:
        forgotten: The entries that cannot be moved; all memory of their parameters becomes that of
            a new optimizer.

    Raises:
        StructureError: If a memory can be neither moved nor forgotten.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, move: Move) -> None:
        self._optimizer = optimizer
        found = list(entries(optimizer, model))
        self.forgotten = unknown(found)
        self._values: list[tuple[Tensor, Tensor]] = []
        gone = {own.parameter for own in self.forgotten}
        for own in found:
            if own.sort == "weights" and own.parameter not in gone:
                value = own.moved(move)
                if value is None:
                    self.forgotten.append(own)
                else:
                    self._values.append((own.value, value))
        gone = {own.parameter for own in self.forgotten}
        kept = new_memory(optimizer) if gone else {}
        self._states: dict[Any, dict[str, Any] | None] = {p: kept.get(p) for p in gone}

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange both memories: the first time the move is made, the second time undone."""
        for value, other in self._values:
            before = value.clone()
            value.copy_(other)
            other.copy_(before)
        for parameter, memory in self._states.items():
            self._states[parameter] = self._optimizer.state.pop(parameter, None)
            if memory is not None:
                self._optimizer.state[parameter] = memory


def new_memory(optimizer: torch.optim.Optimizer) -> Mapping[Any, dict[str, Any]]:
    """The memory of a new optimizer of the same kind, parameters and settings: often empty.

    Args:
        optimizer: Not changed.

    Raises:
        StructureError: If no new optimizer can be made.
    """
    if type(optimizer) in BEGIN_EMPTY:
        return {}
    try:
        groups = [{**own, "params": list(own["params"])} for own in optimizer.param_groups]
        new: Any = type(optimizer)
        return {p: dict(own) for p, own in new(groups).state.items()}
    except Exception as error:  # an optimizer of anybody's may raise anything
        raise StructureError(
            f"{type(optimizer).__name__}: its memory would have to be forgotten, and no new one "
            f"can be made from its param_groups ({error}): give None for the optimizer, and move "
            "its memory yourself"
        ) from error


def _counts(value: Any) -> bool:
    """Whether a value is a counter or setting, the same in every unit order."""
    if isinstance(value, Tensor):
        return value.numel() <= 1
    if isinstance(value, Mapping):
        return all(map(_counts, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_counts, value))
    return isinstance(value, _PLAIN)


def _spans(value: Any, parameter: Tensor) -> bool:
    """Whether a value has the axes of a parameter, some perhaps of length 1."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return False
    pairs = zip(value.shape, parameter.shape, strict=False)
    return value.dim() == parameter.dim() and all(n in (1, m) for n, m in pairs)
