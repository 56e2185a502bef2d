"""Data that a caller has as objects: arrays, tensors, data sets of PyTorch or Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dimat.data import Dataset, Partition, Rows, SourceOptions, joined
from dimat.data.dataset import Tell, as_arrays, as_images, quiet
from dimat.data.sources import divided, usable
from dimat.errors import DataError
from dimat.experiment.given.samples import (
    INPUTS,
    PARTS,
    SampleArrays,
    is_array,
    named_arrays,
    samples_of,
)
from dimat.experiment.given.storage import MOST_BYTES, Storage, leaf_by_index, stays_stored, stored


@dataclass(frozen=True)
class _Reading:
    """How data are read.

    Args:
        options: Of them the task, and the share of the samples to test on.
        storage: Where samples stay that can be had by their number: memory or source; auto, if
            they are to be read, as those cannot.
        tell: Listener to passes over all samples.
    """

    options: SourceOptions
    storage: Storage
    tell: Tell


@dataclass(frozen=True)
class _Part:
    """Samples of a part as tensors, with targets as they are given."""

    x: Rows
    y: Rows
    images: bool


def has_samples(given: Mapping[Any, Any]) -> bool:
    """Whether a dict holds samples, not settings.

    >>> has_samples({"x": [[0.5]], "y": [1]}), has_samples({"source": "digits"})
    (True, False)
    """
    return any(key in (*INPUTS, *PARTS) for key in given) or any(map(is_array, given.values()))


def dataset_of(
    given: Any,
    options: SourceOptions,
    classes: Sequence[str] = (),
    *,
    storage: Storage = "auto",
    tell: Tell = quiet,
) -> tuple[Dataset, Partition | None]:
    """The data set of objects, and who has which training samples; None if they are to be dealt.

    Images are uint8, (n, height, width, channels), and are normalized as those of a source. All
    other inputs are what models get: floats (of images, too), or whole numbers, ids of tokens.
    Data without test samples give a share of their own, by class where there are classes.

    Args:
        given: As the message of the error says.
        options: Of them the task, and the share of the samples to test on.
        classes: Names of all classes; empty: those that are there.
        storage: Where samples stay: memory; source, from where they are read by index whenever they
            are needed; or auto, memory if all together take a GiB at most.
        tell: Listener to passes over all samples.

    Raises:
        DataError: If it is something else, samples do not stack, or cannot be read as they must.
    """
    how = _Reading(options, storage, tell)
    if stays_stored(given, storage):
        how = replace(how, storage="source")
    if not isinstance(given, list):
        return usable(_one(given, "data", how), "data", options, classes=classes), None
    if not given:
        raise DataError("'data' is an empty list: must have the data of each agent")
    task, names = options.task, [f"data[{i}]" for i in range(len(given))]
    parts = []
    for own, name in zip(given, names, strict=True):
        data = _one(own, name, how).for_task(task, name)
        parts.append(data if data.divided else divided(data, task, options.test_share, name))
    ends = np.cumsum([0, *(len(own.train_y) for own in parts)])
    shards = [np.arange(a, b, dtype=np.int64) for a, b in pairwise(ends.tolist())]
    whole = usable(_joined(parts, names), "data", options, classes=classes)
    return whole, Partition(shards, shards)


def _one(given: Any, name: str, how: _Reading) -> Dataset:
    """The data set of one agent, or of all, with its targets as they are given."""
    if isinstance(given, Dataset):
        return given if len(given.test_y) else replace(given, divided=False)
    if isinstance(given, Mapping) and PARTS[0] in given:
        given = _pair_of_parts(given, name)
    if isinstance(given, tuple) and len(given) == 2 and not all(map(is_array, given)):
        train = _part(given[0], f"{name}[0]", f"{name}: x", how)
        test = _part(given[1], f"{name}[1]", f"{name}: x of test", how, like=train)
        return _dataset(train, test, name)
    train = _part(given, name, f"{name}: x", how)
    none = _Part(train.x[:0], train.y[:0], train.images)
    return replace(_dataset(train, none, name), divided=False)


def _pair_of_parts(given: Mapping[Any, Any], name: str) -> Any:
    """The samples of ``train``, or a pair of those and the ones of ``test``."""
    if {*given} not in ({*PARTS}, {PARTS[0]}):
        raise DataError(
            f"'{name}' has the parts {', '.join(map(str, given))}: must have train and test, or "
            "train alone, which then gives data.test_share of its samples to test on"
        )
    return tuple(given[part] for part in PARTS) if len(given) == 2 else given[PARTS[0]]


def _part(given: Any, name: str, where: str, how: _Reading, *, like: _Part | None = None) -> _Part:
    """Samples of a part, in memory or to be read by index.

    Args:
        given: The samples.
        name: Their name, for messages.
        where: That of their inputs.
        how: How they are read.
        like: The training part, if there is one already.
    """
    if isinstance(given, Mapping):
        given = named_arrays(given, name)
    own = leaf_by_index(given, name) if how.storage == "source" else None
    if own is not None:
        x, y = own.first()
        _check_targets(SampleArrays(x, y), name)
        made = as_images if _are_images(x) else as_arrays
        return _Part(*stored(own, made, where, how.options.task, how.tell), _are_images(x))
    read = samples_of(given, name, MOST_BYTES if how.storage != "memory" else None)
    images = _are_images(read.x) if like is None else like.images
    if like is not None and not len(read.x):
        inputs = like.x[:0]
    else:
        inputs = (as_images if images else as_arrays)(read.x, where)
    _check_targets(read, name)
    return _Part(inputs, torch.from_numpy(np.ascontiguousarray(read.y)), images)


def _are_images(x: NDArray[np.generic]) -> bool:
    return x.dtype == np.uint8 and x.ndim in (3, 4)


def _check_targets(own: SampleArrays, name: str) -> None:
    """Refuse targets that are no numbers."""
    if own.y.dtype.kind not in "biufc":
        raise DataError(
            f"{name}: targets are {own.y.dtype}: must be numbers; of classes by name, "
            "np.unique(y, return_inverse=True)[1] counts them, over train and test at once"
        )


def _dataset(train: _Part, test: _Part, name: str) -> Dataset:
    x, other = train.x, test.x
    if x.shape[1:] != other.shape[1:] or x.dtype != other.dtype:
        raise DataError(
            f"{name}: training inputs are {tuple(x.shape[1:])} {x.dtype}, test inputs "
            f"{tuple(other.shape[1:])} {other.dtype}: they must be alike"
        )
    return Dataset("data", x, train.y, other, test.y, images=train.images)


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
        train_x=joined([own.train_x for own in parts]),
        train_y=joined([own.train_y for own in parts]),
        test_x=joined([own.test_x for own in parts]),
        test_y=joined([own.test_y for own in parts]),
    )
