"""Batches as calls of a model: positional and keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dimat.errors import ModelError
from dimat.symmetry import Analysis, analyze
from dimat.symmetry.trace import flatten_inputs

# What PyTorch and a model's own code raise for inputs they cannot take.
_ERRORS = (RuntimeError, IndexError, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Call:
    """One batch as the arguments of a model.

    Args:
        args: Positional arguments, tensors or anything else.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """Its tensors, in the order that the graph takes them."""
        return [x for x in flatten_inputs(self.args, self.kwargs) if isinstance(x, Tensor)]

    @property
    def samples(self) -> int:
        """How many samples it holds: the length of its first tensor that has one; 0 if none has."""
        return next((len(x) for x in self.tensors if x.dim()), 0)

    @property
    def shapes(self) -> str:
        """The shapes of its tensors, for messages."""
        return ", ".join(str(tuple(x.shape)) for x in self.tensors)

    def map(self, function: Callable[[Tensor], Tensor]) -> Call:
        """The same with another tensor in place of each."""
        args, kwargs = torch.utils._pytree.tree_map(
            lambda x: function(x) if isinstance(x, Tensor) else x, (self.args, dict(self.kwargs))
        )
        return Call(args, kwargs)

    def pick(self, index: Tensor) -> Call:
        """Some of the samples: of every tensor that has as many entries as there are samples."""
        count = self.samples
        return self.map(lambda x: x[index.to(x.device)] if x.dim() and len(x) == count else x)

    def run(self, model: nn.Module) -> Any:
        """What the model gives."""
        return model(*self.args, **self.kwargs)


@dataclass(frozen=True)
class Calls:
    """Alike batches, at least one.

    Args:
        calls: As they are used.
        given: As they came, if that was otherwise; errors name these.
    """

    calls: tuple[Call, ...]
    given: tuple[Call, ...] = ()

    def analyze(self, model: nn.Module, constants: Mapping[str, Tensor] | None = None) -> Analysis:
        """The model's symmetry, traced on two samples; on a batch if the model takes no fewer.

        Args:
            model: The model.
            constants: Entries that all states have in common; its own buffers if None.

        Raises:
            ModelError: If the model fails on the first batch, or cannot be captured.
        """
        example = self.calls[0]
        two = example.pick(torch.arange(2) % example.samples)
        if _error(model, two) is None:
            example = two
        shared = dict(model.named_buffers()) if constants is None else constants
        return analyze(model, example.args, example.kwargs, shared)

    def pieces(self, size: int | None) -> list[tuple[Any, ...]]:
        """Every batch as the graph takes it.

        Args:
            size: Samples that the graph is bound to, None if it takes any: a batch then comes in
                pieces, the last filled up with its first samples.
        """
        pieces = []
        for call in self.calls:
            step = size or call.samples
            for start in range(0, call.samples, step):
                part = call
                if step != call.samples:
                    part = call.pick(torch.arange(start, start + step) % call.samples)
                pieces.append(tuple(flatten_inputs(part.args, part.kwargs)))
        return pieces

    @contextmanager
    def blamed(self, model: nn.Module) -> Iterator[None]:
        """If something fails because a batch makes the model fail, say which batch.

        Raises:
            ModelError: With the number of the batch, its shapes, and what the model said.
        """
        try:
            yield
        except _ERRORS:
            for index, call in enumerate(self.given or self.calls):
                if (error := _error(model, call)) is not None:
                    raise ModelError(
                        f"batch {index} ({call.shapes}) breaks the model: {_said(error)}"
                    ) from error
            raise


def _error(model: nn.Module, call: Call) -> Exception | None:
    try:
        with torch.no_grad():
            call.run(model)
    except _ERRORS as error:
        return error
    return None


def _said(error: Exception) -> str:
    first = next((line for line in str(error).splitlines() if line), type(error).__name__)
    if "positional argument" not in first:
        return first
    return f"{first} (a batch (x, y) is an input and its labels; two inputs are ((x, y),))"
