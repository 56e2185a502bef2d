"""Samples of a caller's data set, read once: inputs and targets of batches, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from dimat.data.stored import seeded
from dimat.errors import DataError, first_line, quoted

INPUTS = ("x", "input", "inputs", "image", "images", "pixel_values", "input_ids", "features")
TARGETS = ("y", "target", "targets", "label", "labels")
_ROWS = 256  # samples of a batch while a data set is read
PARTS = ("train", "test")
_FORMS = (
    "arrays (x, y) or {'x': …, 'y': …}, a data set of such samples, a DataLoader of batches, a "
    "pair of those (train, test) or {'train': …, 'test': …}, a list of those with one for each "
    "agent, or a dimat.data.Dataset"
)


@dataclass(frozen=True)
class SampleArrays:
    """Inputs and targets of one part."""

    x: NDArray[np.generic]
    y: NDArray[np.generic]


def is_array(value: object) -> bool:
    """Whether a value is an array of NumPy or a tensor."""
    return isinstance(value, (np.ndarray, Tensor))


def samples_of(given: Any, name: str, most_bytes: int | None = None) -> SampleArrays:
    """Inputs and targets of arrays, or of what gives samples or batches of them.

    Args:
        given: The data, of one part.
        name: Their name, for messages.
        most_bytes: Bytes that are read into memory, at most; None: any number.

    Raises:
        DataError: If they are something else, do not stack, or are more.
    """
    if is_array(given):
        x = array_of(given)
        return SampleArrays(x, x)  # texts are their own targets
    if isinstance(given, tuple) and len(given) == 2 and all(map(is_array, given)):
        x, y = map(array_of, given)
        if not y.ndim:
            raise DataError(f"{name}: targets are one number: must be one for each input")
        return SampleArrays(x, y)
    batches, size = [], 0
    for batch in _seeded(_batches(given, name)):
        x, y = map(array_of, pair_of(batch, f"a sample of '{name}'"))
        batches.append((x, y))
        size += x.nbytes + y.nbytes
        if most_bytes is not None and size > most_bytes:
            raise DataError(
                f"'{name}' gives more than {most_bytes >> 20:,} MiB of batches, of which samples "
                "cannot be had by their number: give the map-style data set itself, which is read "
                "by index; or set data.storage to memory, to read all of it into memory"
            )
    if not batches:
        raise DataError(f"'{name}' has no samples")
    try:
        x, y = (np.concatenate([own[k] for own in batches]) for k in (0, 1))
    except ValueError as error:
        raise of_many_shapes(name, error) from error
    return SampleArrays(x, y)


def named_arrays(given: Mapping[Any, Any], name: str) -> tuple[NDArray[np.generic], ...]:
    """The arrays (x, y) of a dict with both, or with lists of numbers in their place."""
    pair = pair_of(given, f"'{name}'")
    try:
        x, y = (own if isinstance(own, np.memmap) else array_of(own) for own in pair)
    except ValueError as error:
        raise of_many_shapes(name, error) from error
    return x, y


def _batches(given: Any, name: str) -> Iterable[Any]:
    """Batches of what gives samples, collated as PyTorch does, or as a DataLoader is told to."""
    if isinstance(given, DataLoader):
        return in_order(given) or given
    if isinstance(given, IterableDataset) or _streams(given):
        raise DataError(
            f"'{name}' is a {type(given).__name__}, an iterable data set, whose samples cannot be "
            "had by their number: they could neither be dealt to agents nor shuffled, and a run "
            "that goes on could not go back to a batch; give a map-style data set (with "
            "__getitem__ and __len__), which may read each sample when it is asked for; or, if all "
            "fits into memory, list(data) or a DataLoader over it"
        )
    given = without_format(given)
    if isinstance(given, (str, Mapping)) or not (
        hasattr(given, "__getitem__") and hasattr(given, "__len__")
    ):
        raise DataError(f"'{name}' is {quoted(given)}: must be {_FORMS}")
    return _collated(given, name)


def in_order(loader: DataLoader[Any]) -> DataLoader[Any] | None:
    """A loader of the same batches in the order of its data set; None where it has an own order.

    A loader that shuffles gives another order, and with ``drop_last`` other samples, each time.

    Args:
        loader: Its order is that of the data set, or random without replacement.
    """
    sampler = loader.sampler
    shuffles = type(sampler) is RandomSampler and not sampler.replacement
    plain = type(loader.batch_sampler) is BatchSampler
    own = type(loader).__iter__ is not DataLoader.__iter__  # it does more than to read
    if own or isinstance(loader.dataset, IterableDataset) or not plain:
        return None
    if not shuffles:
        return loader if type(sampler) is SequentialSampler else None
    if cast(RandomSampler, sampler).num_samples != len(cast(Any, loader.dataset)):
        return None
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def _seeded(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, of which all that is drawn while they are read is the same each time."""
    both = (batches, getattr(batches, "sampler", None))
    generators = [x for own in both if (x := getattr(own, "generator", None)) is not None]
    before = [own.get_state() for own in generators]
    for own in generators:
        own.manual_seed(0)
    try:
        with seeded(0):
            yield from batches
    finally:
        for own, state in zip(generators, before, strict=True):
            own.set_state(state)


def _streams(given: Any) -> bool:
    """Whether it is a data set of Hugging Face that is streamed."""
    return hasattr(given, "column_names") and not hasattr(given, "__getitem__")


def without_format(given: Any) -> Any:
    """A data set of Hugging Face with tensors, unless it has a transform; others as they are."""
    if hasattr(given, "with_format") and hasattr(given, "column_names"):
        own = getattr(given, "format", None) or {}
        return given if own.get("type") == "custom" else given.with_format("torch")
    return given


def _collated(given: Any, name: str) -> Iterable[Any]:
    loader: DataLoader[Any] = DataLoader(given, batch_size=_ROWS, generator=torch.Generator())
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, TypeError, ValueError) as error:
            raise of_many_shapes(name, error) from error
        except LookupError as error:  # a table, or a dict by name, has no sample 0
            raise DataError(
                f"'{name}' is a {type(given).__name__} of which samples cannot be had by their "
                f"number ({type(error).__name__}: {first_line(error)}): must be {_FORMS}; a table "
                "is arrays, as (table[inputs].to_numpy(), table[target].to_numpy())"
            ) from error
        yield batch


def of_many_shapes(name: str, error: Exception) -> DataError:
    """The error for samples that do not stack."""
    return DataError(
        f"the samples of '{name}' do not stack: {first_line(error)}; have them be tensors of one "
        "shape (a transform does that), or give a DataLoader with a collate_fn that makes them so"
    )


def pair_of(batch: Any, who: str) -> tuple[Any, Any]:
    """Inputs and targets of a batch.

    Args:
        batch: The batch, as it is collated.
        who: What it is, for the message.

    Raises:
        DataError: If it does not have them.
    """
    if is_array(batch):
        return batch, batch
    if isinstance(batch, Mapping):
        x, y = (_named(batch, keys, who) for keys in (INPUTS, TARGETS))
        return x, x if y is None else y
    if isinstance(batch, (list, tuple)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, (list, tuple)) and len(batch) == 1:
        return batch[0], batch[0]
    raise DataError(f"{who} is {quoted(batch)}: must be (x, y), or a dict with both")


def _named(batch: Mapping[Any, Any], keys: Sequence[str], who: str) -> Any:
    found = [key for key in keys if key in batch]
    if len(found) > 1 or (not found and keys is INPUTS):
        problem = f"both {found[0]} and {found[1]}" if found else f"none of {', '.join(keys)}"
        raise DataError(
            f"{who} has {problem} (it has {', '.join(map(str, batch))}): must have one of them"
        )
    return batch[found[0]] if found else None


def array_of(value: Any) -> NDArray[np.generic]:
    """A NumPy array of a tensor, an array, or a list of numbers."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    mapped = isinstance(value, np.memmap)  # a copy, as the file may be read-only, or change
    found: NDArray[np.generic] = np.array(value) if mapped else np.asarray(value)
    return found
