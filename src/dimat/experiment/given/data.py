"""Data that a caller has as objects: arrays, tensors, data sets of PyTorch or Hugging Face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from dimat.data import Dataset, Partition, SourceOptions
from dimat.data.dataset import as_arrays, as_images
from dimat.data.sources import divided, usable
from dimat.errors import DataError, first_line, quoted

_INPUTS = ("x", "input", "inputs", "image", "images", "pixel_values", "input_ids", "features")
_TARGETS = ("y", "target", "targets", "label", "labels")
_ROWS = 256  # samples of a batch while a data set is read
_PARTS = ("train", "test")
_FORMS = (
    "arrays (x, y) or {'x': …, 'y': …}, a data set of such samples, a DataLoader of batches, a "
    "pair of those (train, test) or {'train': …, 'test': …}, a list of those with one for each "
    "agent, or a dimat.data.Dataset"
)


@dataclass(frozen=True)
class _Samples:
    """Inputs and targets of one part."""

    x: NDArray[np.generic]
    y: NDArray[np.generic]


def has_samples(given: Mapping[Any, Any]) -> bool:
    """Whether a dict holds samples, not settings.

    >>> has_samples({"x": [[0.5]], "y": [1]}), has_samples({"source": "digits"})
    (True, False)
    """
    return any(key in (*_INPUTS, *_PARTS) for key in given) or any(map(_is_array, given.values()))


def dataset_of(
    given: Any, options: SourceOptions, classes: Sequence[str] = ()
) -> tuple[Dataset, Partition | None]:
    """The data set of objects, and who has which training samples; None if they are to be dealt.

    Images are uint8, (n, height, width, channels), and are normalized as those of a source. All
    other inputs are what models get: floats (of images, too), or whole numbers, ids of tokens.
    Data without test samples give a share of their own, by class where there are classes.

    Args:
        given: As the message of the error says.
        options: Of them the task, and the share of the samples to test on.
        classes: Names of all classes; empty: those that are there.

    Raises:
        DataError: If it is something else, or samples do not stack.
    """
    if not isinstance(given, list):
        return usable(_one(given, "data"), "data", options, classes=classes), None
    if not given:
        raise DataError("'data' is an empty list: must have the data of each agent")
    task, names = options.task, [f"data[{i}]" for i in range(len(given))]
    parts = []
    for own, name in zip(given, names, strict=True):
        data = _one(own, name).for_task(task, name)
        parts.append(data if data.divided else divided(data, task, options.test_share, name))
    ends = np.cumsum([0, *(len(own.train_y) for own in parts)])
    shards = [np.arange(a, b, dtype=np.int64) for a, b in pairwise(ends.tolist())]
    whole = usable(_joined(parts, names), "data", options, classes=classes)
    return whole, Partition(shards, shards)


def _one(given: Any, name: str) -> Dataset:
    """The data set of one agent, or of all, with its targets as they are given."""
    if isinstance(given, Dataset):
        return given if len(given.test_y) else replace(given, divided=False)
    if isinstance(given, Mapping) and _PARTS[0] in given:
        given = _pair_of_parts(given, name)
    if isinstance(given, tuple) and len(given) == 2 and not all(map(_is_array, given)):
        return _dataset(_samples(given[0], f"{name}[0]"), _samples(given[1], f"{name}[1]"), name)
    train = _samples(given, name)
    none = _Samples(train.x[:0], train.y[:0])
    return replace(_dataset(train, none, name), divided=False)


def _pair_of_parts(given: Mapping[Any, Any], name: str) -> Any:
    """The samples of ``train``, or a pair of those and the ones of ``test``."""
    if {*given} not in ({*_PARTS}, {_PARTS[0]}):
        raise DataError(
            f"'{name}' has the parts {', '.join(map(str, given))}: must have train and test, or "
            "train alone, which then gives data.test_share of its samples to test on"
        )
    return tuple(given[part] for part in _PARTS) if len(given) == 2 else given[_PARTS[0]]


def _dataset(train: _Samples, test: _Samples, name: str) -> Dataset:
    images = train.x.dtype == np.uint8 and train.x.ndim in (3, 4)
    made = as_images if images else as_arrays
    x = made(train.x, f"{name}: x")
    other = made(test.x, f"{name}: x of test") if len(test.x) else x[:0]
    if x.shape[1:] != other.shape[1:] or x.dtype != other.dtype:
        raise DataError(
            f"{name}: training inputs are {tuple(x.shape[1:])} {x.dtype}, test inputs "
            f"{tuple(other.shape[1:])} {other.dtype}: they must be alike"
        )
    for own in (train, test):
        if own.y.dtype.kind not in "biufc":
            raise DataError(
                f"{name}: targets are {own.y.dtype}: must be numbers; of classes by name, "
                "np.unique(y, return_inverse=True)[1] counts them, over train and test at once"
            )
    first, second = (torch.from_numpy(np.ascontiguousarray(own.y)) for own in (train, test))
    return Dataset("data", x, first, other, second, images=images)


def _joined(parts: Sequence[Dataset], names: Sequence[str]) -> Dataset:
    """The data sets of all agents as one."""
    first = parts[0]
    for own, name in zip(parts, names, strict=True):
        kinds = [(d.train_x.shape[1:], d.train_x.dtype, d.train_y.shape[1:]) for d in (first, own)]
        if kinds[0] != kinds[1]:
            shapes = [f"{tuple(x)} {dtype} with targets {tuple(y)}" for x, dtype, y in kinds]
            raise DataError(
                f"{names[0]} has samples {shapes[0]}, and {name} {shapes[1]}: agents learn of "
                "samples of one shape"
            )
    if len(parts) == 1:
        return first
    return replace(
        first,
        divided=True,
        train_x=torch.cat([own.train_x for own in parts]),
        train_y=torch.cat([own.train_y for own in parts]),
        test_x=torch.cat([own.test_x for own in parts]),
        test_y=torch.cat([own.test_y for own in parts]),
    )


# --- samples --------------------------------------------------------------------------------------


def _is_array(value: object) -> bool:
    return isinstance(value, (np.ndarray, Tensor))


def _samples(given: Any, name: str) -> _Samples:
    """Inputs and targets of arrays, or of what gives samples or batches of them."""
    if _is_array(given):
        x = _array(given)
        return _Samples(x, x)  # texts are their own targets
    if isinstance(given, tuple) and len(given) == 2 and all(map(_is_array, given)):
        x, y = map(_array, given)
        if not y.ndim:
            raise DataError(f"{name}: targets are one number: must be one for each input")
        return _Samples(x, y)
    if isinstance(given, Mapping):
        batches = [_pair(given, f"'{name}'")]
    else:
        batches = [_pair(batch, f"a sample of '{name}'") for batch in _batches(given, name)]
    if not batches:
        raise DataError(f"'{name}' has no samples")
    try:
        x, y = (np.concatenate([_array(own[k]) for own in batches]) for k in (0, 1))
    except ValueError as error:
        raise _of_many_shapes(name, error) from error
    return _Samples(x, y)


def _batches(given: Any, name: str) -> Iterable[Any]:
    """Batches of what gives samples, collated as PyTorch does, or as a DataLoader is told to."""
    if isinstance(given, DataLoader):
        return given
    if hasattr(given, "with_format") and hasattr(given, "column_names"):  # Hugging Face
        given = given.with_format("torch")
    if isinstance(given, str) or not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        raise DataError(f"'{name}' is {quoted(given)}: must be {_FORMS}")
    return _collated(given, name)


def _collated(given: Any, name: str) -> Iterable[Any]:
    loader: DataLoader[Any] = DataLoader(given, batch_size=_ROWS, generator=torch.Generator())
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, TypeError, ValueError) as error:
            raise _of_many_shapes(name, error) from error
        except LookupError as error:  # a table, or a dict by name, has no sample 0
            raise DataError(
                f"'{name}' is a {type(given).__name__} of which samples cannot be had by their "
                f"number ({type(error).__name__}: {first_line(error)}): must be {_FORMS}; a table "
                "is arrays, as (table[inputs].to_numpy(), table[target].to_numpy())"
            ) from error
        yield batch


def _of_many_shapes(name: str, error: Exception) -> DataError:
    return DataError(
        f"the samples of '{name}' do not stack: {first_line(error)}; have them be tensors of one "
        "shape (a transform does that), or give a DataLoader with a collate_fn that makes them so"
    )


def _pair(batch: Any, who: str) -> tuple[Any, Any]:
    """Inputs and targets of a batch, of which messages speak as ``who``."""
    if _is_array(batch):
        return batch, batch
    if isinstance(batch, Mapping):
        x, y = (_named(batch, keys, who) for keys in (_INPUTS, _TARGETS))
        return x, x if y is None else y
    if isinstance(batch, (list, tuple)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, (list, tuple)) and len(batch) == 1:
        return batch[0], batch[0]
    raise DataError(f"{who} is {quoted(batch)}: must be (x, y), or a dict with both")


def _named(batch: Mapping[Any, Any], keys: Sequence[str], who: str) -> Any:
    found = [key for key in keys if key in batch]
    if len(found) > 1 or (not found and keys is _INPUTS):
        problem = f"both {found[0]} and {found[1]}" if found else f"none of {', '.join(keys)}"
        raise DataError(
            f"{who} has {problem} (it has {', '.join(map(str, batch))}): must have one of them"
        )
    return batch[found[0]] if found else None


def _array(value: Any) -> NDArray[np.generic]:
    """A NumPy array of a tensor, an array, or a list of numbers."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    found: NDArray[np.generic] = np.asarray(value)
    return found
