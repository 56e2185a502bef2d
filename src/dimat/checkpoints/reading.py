"""Reading of a user's batches, in the forms that data loaders make, as calls of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from dimat.checkpoints.batches import Calls, ModelCall
from dimat.checkpoints.mixing import mixed
from dimat.errors import DataError, ModelError, StructureError, check_whole, quoted
from dimat.files import check_bytes
from dimat.state import is_number
from dimat.tasks.finite import place_of

IMAGES = 2000  # samples looked at; accuracy against their number is in docs/matching.md


def read_calls(
    batches: Iterable[Any], images: int, device: torch.device | str, *, needed: bool = True
) -> Calls:
    """The calls in a user's batches, which are read until there are ``images`` samples.

    Samples are mixed over the batches where that can be done
    (:func:`dimat.checkpoints.mixing.mixed`). A batch whose tensors lead with different sizes, such
    as a graph of nodes and edges, is taken whole, and counts for as many samples as its first
    tensor is long.

    Args:
        batches: As :func:`dimat.merge` takes them; none is read beyond those samples.
        images: Largest number of samples, >= 1.
        device: Device of the calls. Half-precision inputs become float32, as states do.
        needed: Whether it is an error if there are none.

    Raises:
        ConfigError: If ``images`` is not positive.
        DataError: If there are no batches, or one holds no samples or no finite numbers.
        ModelError: If a batch is not like the first.
    """
    check_whole("images", images)
    _check_kind(batches)
    found: list[ModelCall] = []
    left = images
    for index, batch in enumerate(batches):
        call = _call(batch, index)
        _check_values(call, index)
        call = _like(found[0], call, index) if found else call
        found.append(_cut(call, left).map(lambda x: _wide(x, device)))
        left -= call.samples
        if left <= 0:
            break
    if not found and needed:
        raise DataError(
            "no batches: give at least one, on which the model's graph is traced and units are "
            "compared (a method that needs no data still needs an example input)"
        )
    return Calls(mixed(found), tuple(found))


def made_up(shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> ModelCall:
    """A call with random inputs, to trace a model on where there are no data.

    Args:
        shapes: Shape of every positional input.
        dtype: Their type.

    Raises:
        StructureError: If they would take far too much memory.
    """
    needed = sum(math.prod(shape) * dtype.itemsize for shape in shapes)
    check_bytes(f"an example input of {[*map(tuple, shapes)]}", needed, 0, StructureError)
    random = torch.Generator().manual_seed(0)
    return ModelCall(tuple(torch.randn(*x, generator=random, dtype=dtype) for x in shapes), {})


def _check_kind(batches: Iterable[Any]) -> None:
    if isinstance(batches, (Tensor, Mapping)):
        raise DataError(
            f"batches is one {type(batches).__name__}: give a list or an iterable of batches, such "
            "as [inputs], or inputs.split(250)"
        )
    samples = isinstance(batches, Dataset) and not isinstance(batches, IterableDataset)
    if samples or (hasattr(batches, "column_names") and hasattr(batches, "__getitem__")):
        raise DataError(
            f"batches is a {type(batches).__name__}, which gives samples one by one, and the first "
            "axis of a batch is its samples: put it in a loader, as DataLoader(data, 250); or with "
            "batch_size=None, if it gives whole batches"
        )
    steps = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    if isinstance(batches, str) or not steps:
        raise DataError(
            f"batches is {quoted(batches)}: give a list or an iterable of batches, such as "
            "[inputs] or a data loader"
        )


def _call(batch: Any, index: int) -> ModelCall:
    """One batch as a call, without its labels."""
    if isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    if isinstance(batch, Mapping):
        call = ModelCall((), dict(batch))
    else:
        call = ModelCall(tuple(batch) if isinstance(batch, (tuple, list)) else (batch,), {})
    if not call.samples:
        raise DataError(
            f"batch {index} is {quoted(batch)} and holds no samples: a batch is a tensor, a tuple "
            "whose first element is the input, or a dict of keyword arguments; arrays become "
            "tensors by torch.from_numpy"
        )
    return call


def _check_values(call: ModelCall, index: int) -> None:
    for value in call.tensors:
        if is_number(value) and not bool(torch.isfinite(value).all()):
            wrong = ~torch.isfinite(value).cpu().numpy()
            raise DataError(
                f"batch {index} holds values that are not finite, the first {place_of(wrong)}"
            )


def _like(first: ModelCall, call: ModelCall, index: int) -> ModelCall:
    """A call with its arguments in the order of the first one's, on which the graph is traced.

    It may differ from the first in its number of samples only; a call taken whole in any size.
    """
    if first.kwargs.keys() != call.kwargs.keys():
        raise ModelError(
            f"batch {index} does not fit batch 0: it has {_named(call)}, expected {_named(first)}"
        )
    call = ModelCall(call.args, {name: call.kwargs[name] for name in first.kwargs})
    whole = not (first.splits and call.splits)
    expected, found = _kinds(first, whole=whole), _kinds(call, whole=whole)
    if expected != found:
        what, hint = (
            ("it", "") if whole else ("a sample", " (crop or pad all samples to one shape)")
        )
        raise ModelError(
            f"batch {index} does not fit batch 0: {what} has {', '.join(found)}, expected "
            f"{', '.join(expected)}{hint}"
        )
    return call


def _named(call: ModelCall) -> str:
    return ", ".join(f"'{name}'" for name in call.kwargs) or "no keyword arguments"


def _kinds(call: ModelCall, *, whole: bool) -> list[str]:
    if whole:
        return [f"{x.dim()} axes {_wide_type(x)}" for x in call.tensors]
    return [f"{tuple(x.shape[1:])} {_wide_type(x)}" for x in call.tensors]


def _wide_type(value: Tensor) -> torch.dtype:
    half = value.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half else value.dtype


def _wide(value: Tensor, device: torch.device | str) -> Tensor:
    return value.detach().to(device, _wide_type(value))


def _cut(call: ModelCall, samples: int) -> ModelCall:
    return call if samples >= call.samples or not call.splits else call.pick(torch.arange(samples))
