"""The operators that a model calls in a run: what eval and training mode are told apart by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dimat.compat import DispatchMode, TensorKeys, tree_flatten, tree_leaves


def entries(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name: a forward pass may write both.

    Args:
        model: The model.
    """
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class RecordedCalls(DispatchMode):  # type: ignore[no-untyped-call]
    """A context that records every operator, with its arguments, by what made them.

    A tensor is named after the entry or the input that it is, or by the call that gave it. One that
    is none of these, as the model holds or makes it by itself, stands for its own values.

    Args:
        model: The model that is run.
        inputs: Its inputs, flattened.

    Attributes:
        calls: For each call the operator, the structure of its arguments, and their leaves.
        complete: Whether all is recorded that the outputs depend on.
    """

    def __init__(self, model: nn.Module, inputs: Iterable[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, list[Any]]] = []
        self.complete = False
        self._names = TensorKeys()  # holds no tensor
        for k, value in enumerate(inputs):
            self._name([value], ("input", k))
        self._model = model
        for name, value in entries(model).items():
            self._name([value], ("entry", name))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Record one call."""
        leaves, structure = tree_flatten((args, kwargs or {}))
        self.calls.append((func, structure, [self._named(x) for x in leaves]))
        result = func(*args, **(kwargs or {}))
        self._name(tree_leaves(result), ("call", len(self.calls)))
        return result

    def finish(self, outputs: Iterable[Tensor]) -> None:
        """Record the outputs, and the entries as the run left them; entries may be exchanged.

        Args:
            outputs: The tensors that the model returned.
        """
        leaves, structure = tree_flatten((list(outputs), entries(self._model)))
        self.calls.append((None, structure, [self._named(x) for x in leaves]))
        self.complete = True

    def same_as(self, other: RecordedCalls) -> bool:
        """Whether two runs did the same: then their graphs would be equal.

        Args:
            other: Another run of the model, on the same inputs.
        """
        if not (self.complete and other.complete) or len(self.calls) != len(other.calls):
            return False
        return all(
            a[:2] == b[:2] and len(a[2]) == len(b[2]) and all(map(_same, a[2], b[2]))
            for a, b in zip(self.calls, other.calls, strict=True)
        )

    def _name(self, values: Iterable[Any], name: tuple[str, Any]) -> None:
        for k, x in enumerate(values):
            if isinstance(x, Tensor) and x not in self._names:  # written in place it is what it was
                self._names[x] = (*name, k)

    def _named(self, value: Any) -> Any:
        known = isinstance(value, Tensor) and value in self._names
        return self._names[value] if known else value


def _same(a: Any, b: Any) -> bool:
    """Whether two leaves are the same; of two tensors, whether their values are."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
        return alike and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)
