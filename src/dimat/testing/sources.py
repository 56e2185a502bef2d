"""What every source of images keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dimat.data import SOURCES, Dataset
from dimat.data.dataset import as_images, as_labels, check_counted, check_known
from dimat.errors import DataError
from dimat.testing.laws import keeps

Load = Callable[[], Dataset]


def check_source(source: str | Callable[..., Any], place: str = "") -> None:
    """Check that a source of images keeps the laws that dimat's sources keep.

    Args:
        source: As it is registered: a function of a place and of whom to tell; or its name.
        place: What stands after the colon, as in ``npz:PATH``.

    Raises:
        AssertionError: Naming the law that is broken.
    """
    function = SOURCES[source] if isinstance(source, str) else source
    told: list[tuple[int, int]] = []

    def load() -> Dataset:
        told.clear()
        found: Dataset = function(place, lambda new, total: told.append((new, total)))
        return found

    keeps(LAWS, load, told)


def it_loads_a_dataset(load: Load, told: list[tuple[int, int]]) -> None:
    """A source gives a dimat.data.Dataset, with a name."""
    data = load()
    assert isinstance(data, Dataset), f"it gave a {type(data).__name__}"
    assert data.name


def images_and_labels_are_in_their_ranges(load: Load, told: list[tuple[int, int]]) -> None:
    """Images are uint8 or floats in [0, 1], labels 0, 1, …, each in training, one an image."""
    data = load()
    parts = (("train", data.train_x, data.train_y), ("test", data.test_x, data.test_y))
    try:
        for name, x, y in parts:
            as_images(x.numpy(), f"{name}_x")
            as_labels(y.numpy(), f"{name}_y")
        check_counted(data.train_y, "train_y")
        check_known(data.test_y, data.train_y, "test_y", "train_y")
    except DataError as error:
        raise AssertionError(str(error)) from error
    for name, x, y in parts:
        assert x.dim() == 4, f"{name}_x has shape {tuple(x.shape)}"
        assert x.dtype in (torch.uint8, torch.float32), f"{name}_x is {x.dtype}"
        assert y.dtype == torch.int64, f"{name}_y is {y.dtype}"
        assert len(x) == len(y), f"{name}: {len(x)} images, {len(y)} labels"
    assert data.train_x.shape[1:] == data.test_x.shape[1:], "train and test have other shapes"


def it_is_the_same_whenever_it_is_loaded(load: Load, told: list[tuple[int, int]]) -> None:
    """The same images come in the same order: a run that goes on loads them again."""
    first, second = load(), load()
    for name in ("train_x", "train_y", "test_x", "test_y"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def what_is_told_adds_up(load: Load, told: list[tuple[int, int]]) -> None:
    """Who is told is told (0, total) first, and all of the total, or nothing at all."""
    load()
    if told:
        assert told[0][0] == 0, "the first is not (0, total)"
        assert {total for _, total in told} == {sum(new for new, _ in told)}


LAWS: tuple[Callable[[Load, list[tuple[int, int]]], None], ...] = (
    it_loads_a_dataset,
    images_and_labels_are_in_their_ranges,
    it_is_the_same_whenever_it_is_loaded,
    what_is_told_adds_up,
)
