"""What every source of data keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dimat.data import SOURCES, Dataset, tensor_of
from dimat.data.dataset import as_arrays, as_images
from dimat.errors import DataError
from dimat.tasks import TASKS, Task
from dimat.tasks.labels import check_counted, check_known
from dimat.testing.laws import keeps

Load = Callable[[], Dataset]


def check_source(
    source: str | Callable[..., Any], place: str = "", *, task: str = "classification"
) -> None:
    """Check that a source of data keeps the laws that dimat's sources keep.

    Args:
        source: As it is registered: a function of a place and of whom to tell; or its name.
        place: What stands after the colon, as in ``npz:PATH``.
        task: Name of the task that its targets are of.

    Raises:
        AssertionError: Naming the law that is broken.
        ConfigError: If it cannot be registered.
    """
    function = SOURCES[source] if isinstance(source, str) else SOURCES.prepared("mine", source)
    told: list[tuple[int, int]] = []

    def load() -> Dataset:
        told.clear()
        found: Dataset = function(place, lambda new, total: told.append((new, total)))
        return found

    keeps(LAWS, load, told, TASKS[task])


def it_loads_a_dataset(load: Load, told: list[tuple[int, int]], task: Task) -> None:
    """A source gives a dimat.data.Dataset, with a name."""
    data = load()
    assert isinstance(data, Dataset), f"it gave a {type(data).__name__}"
    assert data.name


def inputs_and_targets_are_in_their_ranges(
    load: Load, told: list[tuple[int, int]], task: Task
) -> None:
    """Images are uint8 or floats in [0, 1], labels 0, 1, …, each in training, one an image.

    Other arrays are float32 or ids of tokens; targets are those of the task, one an input.
    """
    data = load()
    parts = (("train", data.train_x, data.train_y), ("test", data.test_x, data.test_y))
    try:
        for name, x, _ in parts:
            (as_images if data.images else as_arrays)(tensor_of(x).numpy(), f"{name}_x")
        whole = data.for_task(task, data.name)
        if task.has_classes:
            train, test = tensor_of(whole.train_y), tensor_of(whole.test_y)
            check_counted(train, "train_y")
            check_known(test, train, "test_y", "train_y")
    except DataError as error:
        raise AssertionError(str(error)) from error
    kinds = (torch.uint8 if data.images else torch.int64, torch.float32)
    for name, x, y in parts:
        assert x.dim() == 4 or not data.images, f"{name}_x has shape {tuple(x.shape)}"
        assert x.dtype in kinds, f"{name}_x is {x.dtype}"
        assert y.dtype == torch.int64 or not task.has_classes, f"{name}_y is {y.dtype}"
    assert data.train_x.shape[1:] == data.test_x.shape[1:], "train and test have other shapes"


def it_is_the_same_whenever_it_is_loaded(
    load: Load, told: list[tuple[int, int]], task: Task
) -> None:
    """The same images come in the same order: a run that goes on loads them again."""
    first, second = load(), load()
    for name in ("train_x", "train_y", "test_x", "test_y"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def what_is_told_adds_up(load: Load, told: list[tuple[int, int]], task: Task) -> None:
    """Who is told is told (0, total) first, and all of the total, or nothing at all."""
    load()
    if told:
        assert told[0][0] == 0, "the first is not (0, total)"
        assert {total for _, total in told} == {sum(new for new, _ in told)}


LAWS: tuple[Callable[[Load, list[tuple[int, int]], Task], None], ...] = (
    it_loads_a_dataset,
    inputs_and_targets_are_in_their_ranges,
    it_is_the_same_whenever_it_is_loaded,
    what_is_told_adds_up,
)
