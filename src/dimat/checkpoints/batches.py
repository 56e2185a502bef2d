"""Batches as calls of a model, with positional and keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dimat.compat import tree_map
from dimat.errors import DataError, ModelError
from dimat.graph.capture import in_mode
from dimat.graph.trace import Trace, flatten_inputs
from dimat.merging import calibrated_norms, recalibrate
from dimat.symmetry import Analysis, Symmetry, analyze, given_analysis
from dimat.symmetry.given import NoGraph
from dimat.text import brief


@dataclass(frozen=True)
class ModelCall:
    """One batch as the arguments of a model.

    Args:
        args: Positional arguments, tensors or anything else.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    __repr__ = brief

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors of the call, in the order of the graph's inputs."""
        return [x for x in flatten_inputs(self.args, self.kwargs) if isinstance(x, Tensor)]

    @property
    def samples(self) -> int:
        """Number of samples: the length of the first tensor that has one, 0 if none has."""
        return next((len(x) for x in self.tensors if x.dim()), 0)

    @property
    def splits(self) -> bool:
        """Whether the call can be taken apart: all its tensors have one entry a sample.

        A graph, given as features of nodes and a list of edges, is one whole.
        """
        return len({len(x) for x in self.tensors if x.dim()}) == 1

    @property
    def shapes(self) -> str:
        """The shapes of the call's tensors, for messages."""
        return ", ".join(str(tuple(x.shape)) for x in self.tensors)

    def map(self, function: Callable[[Tensor], Tensor]) -> ModelCall:
        """The call with every tensor replaced.

        Args:
            function: A function from a tensor to the one in its place.
        """
        args, kwargs = tree_map(
            lambda x: function(x) if isinstance(x, Tensor) else x, (self.args, dict(self.kwargs))
        )
        return ModelCall(args, kwargs)

    def pick(self, index: Tensor) -> ModelCall:
        """The call with some of its samples, if it :attr:`splits`.

        Args:
            index: Indices of the samples.
        """
        return self.map(lambda x: x[index.to(x.device)] if x.dim() else x)

    def run(self, model: nn.Module) -> Any:
        """The output of a model.

        Args:
            model: The model to call.
        """
        return model(*self.args, **self.kwargs)


@dataclass(frozen=True)
class Calls:
    """Batches of one kind; none, where a symmetry given by hand makes them unnecessary.

    Args:
        calls: The batches as they are used.
        given: The batches as the user gave them, if others are used; errors name these.
        made_up: A call without data, to trace the model on where there are no batches.
    """

    calls: tuple[ModelCall, ...]
    given: tuple[ModelCall, ...] = ()
    made_up: ModelCall | None = None

    __repr__ = brief

    @property
    def samples(self) -> int:
        """Number of samples of all batches."""
        return sum(call.samples for call in self.calls)

    def analyze(
        self,
        model: nn.Module,
        constants: Mapping[str, Tensor] | None = None,
        frozen: Mapping[str, Tensor] | None = None,
    ) -> Analysis:
        """The analysis of a model: its graph and its symmetry.

        Args:
            model: Not changed.
            constants: Entries that all states have in common; the model's own buffers if None.
            frozen: Entries that states lack, as nobody trains them; None: none.

        Raises:
            ModelError: If the model fails on the first batch, or cannot be captured.
        """
        example = self.example(model)
        shared = dict(model.named_buffers()) if constants is None else constants
        return analyze(model, example.args, example.kwargs, shared, frozen)

    def by_hand(self, symmetry: Symmetry, model: nn.Module) -> Analysis:
        """The analysis with a symmetry given by hand, proved on the batches if there are any.

        Args:
            symmetry: The symmetry.
            model: Not changed.

        Raises:
            StructureError: If the symmetry is of another model, or changes its outputs.
        """
        if not self.calls:
            return given_analysis(symmetry, model)
        example = self.example(model)
        return given_analysis(symmetry, model, example.args, example.kwargs)

    def example(self, model: nn.Module) -> ModelCall:
        """Two samples as an example; a whole batch, if the model does not take two samples.

        Args:
            model: The model; not changed.
        """
        example = self.calls[0] if self.made_up is None else self.made_up
        if not example.splits:
            return example
        two = example.pick(torch.arange(2) % example.samples)
        return example if _error(model, two) else two

    def pieces(self, trace: Trace) -> list[tuple[Any, ...]]:
        """Every batch in the sizes that a graph takes.

        Args:
            trace: The graph. If it is bound to a number of samples, a batch comes in pieces, the
                last filled up with its first samples.

        Raises:
            ModelError: If a batch has to be taken whole, and the graph is bound to other sizes.
        """
        size, pieces = trace.batch_size, []
        for index, call in enumerate(self.calls):
            if not call.splits and not isinstance(trace, NoGraph):
                _check_sizes(call, index, trace)
            step = size if size and call.splits else call.samples
            for start in range(0, call.samples, step):
                part = call
                if step != call.samples:
                    part = call.pick(torch.arange(start, start + step) % call.samples)
                pieces.append(tuple(flatten_inputs(part.args, part.kwargs)))
        return pieces

    def recalibrate(self, model: nn.Module, run: nn.Module | None = None) -> bool:
        """Recompute the BatchNorm statistics of a model on the batches, but for frozen ones.

        Args:
            model: Its running statistics are changed, nothing else.
            run: The module to run, where that is the model under another forward.

        Returns:
            Whether the model has statistics to recompute.

        Raises:
            DataError: If a BatchNorm gets one value a channel only, which has no variance; if there
                are no batches.
        """
        if not self.calls and calibrated_norms(model):
            raise DataError(
                "no batches to recompute BatchNorm statistics on: give at least one, or "
                "recalibration='none'"
            )
        return recalibrate(model, self.calls, lambda call: call.run(run or model))

    @contextmanager
    def blamed(self, model: nn.Module) -> Iterator[None]:
        """A context in which an error that a batch causes in the model names the batch.

        Args:
            model: The model that runs in the context.

        Raises:
            ModelError: With the number of the batch, its shapes, and the model's error.
        """
        try:
            yield
        except Exception:  # a model's own code may raise anything
            for index, call in enumerate(self.given or self.calls):
                if (error := _error(model, call)) is not None:
                    raise ModelError(
                        f"batch {index} ({call.shapes}) breaks the model: {_said(error)}"
                    ) from error
            raise


def _check_sizes(call: ModelCall, index: int, trace: Trace) -> None:
    for value, sizes in zip(call.tensors, trace.sizes, strict=True):
        if any(n is not None and n != m for n, m in zip(sizes, value.shape, strict=True)):
            bound = ", ".join("any" if n is None else str(n) for n in sizes)
            raise ModelError(
                f"batch {index} ({call.shapes}) does not fit the model's graph, in which an input "
                f"has the sizes ({bound}): its tensors lead with different sizes, so it is taken "
                "whole (a graph, say); give batches of one shape, padded if need be"
            )


def _error(model: nn.Module, call: ModelCall) -> Exception | None:
    """The error that a call raises in the model, which is in eval mode and not changed."""
    try:
        with torch.no_grad(), in_mode(model, training=False):
            call.run(model)
    except Exception as error:
        return error
    return None


def _said(error: Exception) -> str:
    first = next((line for line in str(error).splitlines() if line), type(error).__name__)
    if "positional argument" not in first:
        return first
    return f"{first} (a batch (x, y) is an input and its labels; two inputs are ((x, y),))"
