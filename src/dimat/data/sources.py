"""The sources of data, each with a file of its own and an entry here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dimat.data.dataset import Dataset, Part, Tell, as_arrays, as_images, quiet, why_not
from dimat.data.digits import digits
from dimat.data.folder import folder
from dimat.data.huggingface import huggingface
from dimat.data.npz import npz, npz_inputs
from dimat.data.options import DEFAULTS, SourceOptions
from dimat.data.partition import held_out
from dimat.data.stored import StoredTensor, tensor_of
from dimat.data.tables import csv, jsonl, parquet
from dimat.errors import DataError, look_up, quoted
from dimat.registry import Registry, a_function
from dimat.tasks import CLASSIFICATION, Task
from dimat.tasks.labels import check_counted, check_known

__all__ = ["SOURCES", "Dataset", "load_dataset", "load_inputs"]

SOURCES: Registry[Callable[..., Dataset]] = Registry(
    "data.source",
    "dimat.sources",
    {
        "digits": digits,
        "npz": npz,
        "folder": folder,
        "hf": huggingface,
        "csv": csv,
        "jsonl": jsonl,
        "parquet": parquet,
    },
    a_function("place", "tell", options=True),
)


def load_dataset(
    source: str,
    tell: Tell = quiet,
    *,
    task: Task = CLASSIFICATION,
    classes: Sequence[str] = (),
    needs: Sequence[Part] = ("train", "test"),
    options: SourceOptions = DEFAULTS,
) -> Dataset:
    """The data set of a source, with the targets of a task.

    Args:
        source: ``"digits"``, ``"npz:PATH"``, ``"folder:PATH"``, ``"csv:PATH"``, ``"hf:NAME"`` or
            another of :data:`SOURCES`.
        tell: Listener to the decoding of images, if they are encoded: ``tell(0, total)``, then
            ``tell(new, total)`` whenever ``new`` more are decoded.
        task: The task, which says what targets are.
        classes: Names of all classes, in the order of their labels, of which some may have no image
            here; empty: the classes of the source, each with a training image.
        needs: The parts that must have samples.
        options: Settings for sources that have a parameter ``options``.

    Raises:
        ConfigError: If no such source is known.
        DataError: If the inputs or targets cannot be used, with file, array and rule.
    """
    name, _, path = source.partition(":")
    function = look_up("data.source", name, SOURCES)
    asks = "options" in inspect.signature(function).parameters
    options = replace(options, task=task)
    data = function(path, tell, options=options) if asks else function(path, tell)
    if name in SOURCES.added:
        data = as_dataset(data, source)
    return usable(data, source, options, classes=classes, needs=needs)


def as_dataset(found: object, source: str) -> Dataset:
    """What a source of one's own gave, as dimat's sources give it: arrays may be NumPy's.

    Args:
        found: What it gave.
        source: The source, for messages.

    Raises:
        DataError: If it is no data set, or its inputs are none.
    """
    if not isinstance(found, Dataset):
        raise DataError(
            f"source '{source}' gives what is {quoted(found)}: must be a dimat.data.Dataset(name, "
            "train_x, train_y, test_x, test_y)"
        )
    parts: dict[str, Any] = {}
    for part in ("train_x", "train_y", "test_x", "test_y"):
        rows, where = getattr(found, part), f"{source}: {part}"
        if isinstance(rows, StoredTensor):
            parts[part] = rows
            continue
        if isinstance(rows, Tensor):
            rows = rows.detach().cpu()
            rows = (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()
        array = np.ascontiguousarray(rows)
        if part.endswith("y"):
            if array.dtype.kind not in "biufc":
                raise DataError(f"{where} is {array.dtype}: targets are numbers")
            parts[part] = torch.from_numpy(array)
        elif len(array):
            parts[part] = (as_images if found.images else as_arrays)(array, where)
        else:
            parts[part] = torch.from_numpy(array)
    return replace(found, **parts)


def usable(
    data: Dataset,
    source: str,
    options: SourceOptions,
    *,
    classes: Sequence[str] = (),
    needs: Sequence[Part] = ("train", "test"),
) -> Dataset:
    """A data set that a run can use: with a test part, and the targets of the task, checked.

    Args:
        data: The data set as it was read.
        source: Its source, for messages.
        options: Of them the task, and the share of a test part that it does not have.
        classes: As :func:`load_dataset` takes them.
        needs: Likewise.

    Raises:
        DataError: If the inputs or targets cannot be used, with the rule.
    """
    task = options.task
    data = data.for_task(task, source)
    if not data.divided:
        data = divided(data, task, options.test_share, source)
    if task.has_classes and not data.classes and "labels" not in data.refused:
        labels = why_not(lambda: _check_labels(data, source))
        data = replace(data, refused={**data.refused, "labels": labels})
    data.check_usable(source, needs, counted=not classes)
    return data.with_classes(classes, source) if classes else data


def divided(data: Dataset, task: Task, share: float, source: str) -> Dataset:
    """A data set without parts, of which a share becomes the test part, stratified by class.

    Which samples it is depends on their number and classes alone, so that a model is tested on
    none that any run has trained on.

    Args:
        data: The data set, all of it in the training part.
        task: The task.
        share: Share of the samples, in [0, 1].
        source: Its source, for messages.
    """
    labels = np.zeros(len(data.train_y), np.int64)
    if task.has_classes:
        labels = tensor_of(data.train_y).numpy()
    held = held_out(labels, share, 1, 0) if share < 1 else np.ones(len(labels), np.bool_)
    missing = f"{source}: {len(labels)} samples have no part of data.test_share {share:g}"
    refused = {"train": missing, "test": f"{missing}: give a larger share, or data.test_source"}
    if task.has_classes and len(data.classes) == 1:
        refused["labels"] = (
            f"{source}: all samples are of class '{data.classes[0]}': name all classes in "
            "data.classes, or give samples of others"
        )
    return replace(data.with_test(held), refused=refused)


def _check_labels(data: Dataset, source: str) -> None:
    """Refuse labels that have no names, and leave out a class or go beyond those of training."""
    train, test = tensor_of(data.train_y), tensor_of(data.test_y)
    if len(train):
        if len(test):
            check_known(test, train, f"{source}: test_y", "train_y")
        check_counted(train, f"{source}: train_y")


def load_inputs(source: str, options: SourceOptions = DEFAULTS) -> Dataset:
    """The data set of a source of which only training inputs are wanted; an archive needs no more.

    Args:
        source: As :func:`load_dataset` takes it.
        options: As :func:`load_dataset` takes them, with the task.

    Raises:
        ConfigError: If no such source is known.
        DataError: If the inputs cannot be used.
    """
    name, _, path = source.partition(":")
    if name == "npz":
        return npz_inputs(path, options)
    return load_dataset(source, task=options.task, options=options)
