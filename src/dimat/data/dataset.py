"""A data set in memory, and the rules for images and labels of every source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.errors import DataError
from dimat.state import brief

_HIGHEST = 2**31 - 1
_MOST_CHANNELS = 4  # with a longer last axis and a second one this short, channels come second
# A listener to progress: called with (0, total) before the first image is decoded, and then with
# (new, total) for every ``new`` more.
Tell = Callable[[int, int], None]
Part = Literal["train", "test"]


def quiet(new: int, total: int) -> None:
    """The listener that ignores progress."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels, all in memory.

    Args:
        name: Name of the source.
        train_x: (n, height, width, channels), uint8, or float32 in [0, 1].
        train_y: (n,) int64 labels, 0 <= label < num_classes.
        test_x: Test images, of the same shape and dtype.
        test_y: Labels of the test images.
        classes: Names of the classes, by label; empty where labels are only numbers.
        refused: Message for what cannot be used as it is, and need not be: ``train`` or ``test``
            where the source has no such images, ``labels`` where they leave out a class.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    __repr__ = brief

    @classmethod
    def of_parts(
        cls,
        name: str,
        parts: Mapping[str, tuple[Tensor, Tensor]],
        classes: Sequence[str] = (),
        refused: Mapping[str, str] = MappingProxyType({}),
    ) -> Dataset:
        """The data set of images and labels by part, of which one may be missing.

        Args:
            name: Name of the source.
            parts: Images and labels of ``train``, of ``test``, or of both.
            classes: As in the data set.
            refused: As in the data set.
        """
        x, y = next(iter(parts.values()))
        none = x[:0], y[:0]
        train, test = parts.get("train", none), parts.get("test", none)
        return cls(name, *train, *test, tuple(classes), refused)

    @property
    def num_classes(self) -> int:
        """Number of classes: of those that have names, or else in the training labels."""
        return len(self.classes) or int(self.train_y.max()) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label; numbers where they have none."""
        return self.classes or tuple(map(str, range(self.num_classes)))

    @property
    def in_channels(self) -> int:
        """Number of channels of an image."""
        return int(self.train_x.shape[3])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of an image."""
        return int(self.train_x.shape[1]), int(self.train_x.shape[2])

    def only(self, index: NDArray[np.int64]) -> Dataset:
        """The data set with some of its training images only.

        Args:
            index: Indices of the training images to keep.
        """
        kept = torch.from_numpy(index)
        return replace(self, train_x=self.train_x[kept], train_y=self.train_y[kept])

    def check_usable(self, source: str, needs: Sequence[Part], *, counted: bool) -> None:
        """Refuse a data set that lacks images, or whose labels leave out a class.

        Args:
            source: The source, for the message.
            needs: The parts that must have images.
            counted: Whether every class must have a training image.

        Raises:
            DataError: With what the source says of it.
        """
        for part, labels in (("train", self.train_y), ("test", self.test_y)):
            if part in needs and not len(labels):
                raise DataError(self.refused.get(part, f"{source}: has no {part} images"))
        if counted and self.refused.get("labels"):
            raise DataError(self.refused["labels"])

    def with_classes(self, classes: Sequence[str], source: str) -> Dataset:
        """The data set with labels that count given classes, some of which may have no image.

        Args:
            classes: Names of all classes. Label i becomes the place of its own name among them, or
                stays i where the data set has no names.
            source: The source, for the message.

        Raises:
            DataError: If there is an image of another class.
        """
        place = {name: i for i, name in enumerate(classes)}
        names = self.classes or tuple(classes)
        for part, labels in (("train", self.train_y), ("test", self.test_y)):
            for label in torch.unique(labels).tolist():
                if label >= len(names) or names[label] not in place:
                    own = f"class '{names[label]}'" if self.classes else f"label {label}"
                    known = [*classes[:5], "…"] if len(classes) > 5 else classes
                    raise DataError(
                        f"{source}: {part} has {own}, which is none of the {len(classes)} classes "
                        f"({', '.join(known)}); name it as one of them, or name all classes in "
                        "data.classes, alike at all agents"
                    )
        labels = torch.tensor([place.get(name, -1) for name in names])
        return replace(
            self,
            train_y=labels[self.train_y],
            test_y=labels[self.test_y],
            classes=tuple(classes),
            refused={},
        )


def as_images(array: NDArray[np.generic], where: str) -> Tensor:
    """The images of an array, as a tensor (n, height, width, channels).

    Args:
        array: (n, height, width, channels), or (n, height, width) for one channel.
        where: Name of the array, for messages.

    Raises:
        DataError: If they are neither uint8 nor floats in [0, 1].
    """
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(f"{where} has shape {array.shape}: images are (n, height, width, channels)")
    if array.shape[3] > _MOST_CHANNELS >= array.shape[1]:
        raise DataError(
            f"{where} has shape {array.shape}: images are (n, height, width, channels), and these "
            "look as if channels came first; np.transpose(x, (0, 2, 3, 1)) puts them last"
        )
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        way = "; divide by the highest value that there can be, or store uint8"
        raise DataError(
            f"{where} is {array.dtype}: images are uint8, or float in [0, 1]"
            f"{way if np.issubdtype(array.dtype, np.integer) else ''}"
        )
    if not np.isfinite(array).all():
        raise DataError(f"{where} has values that are not finite")
    lowest, highest = float(array.min()), float(array.max())
    if lowest < 0 or highest > 1:
        raise DataError(
            f"{where} ranges over [{lowest:.3g}, {highest:.3g}]: float "
            "images must lie in [0, 1]; divide by the largest value, or store uint8"
        )
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def as_labels(array: NDArray[np.generic], where: str) -> Tensor:
    """The labels of an array, as an int64 tensor (n,).

    Args:
        array: (n,) integers.
        where: Name of the array, for messages.

    Raises:
        DataError: If they are no integers >= 0, or there is none.
    """
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(
            f"{where} is {array.dtype} of shape {array.shape}: labels are integers (n,)"
        )
    if not len(array):
        raise DataError(f"{where} is empty")
    if int(array.min()) < 0:
        raise DataError(f"{where} has label {int(array.min())}: labels start at 0")
    if int(array.max()) > _HIGHEST:
        raise DataError(f"{where} has label {int(array.max())}: labels are at most {_HIGHEST:,}")
    return torch.from_numpy(array.astype(np.int64))


def check_counted(labels: Tensor, where: str) -> None:
    """Refuse labels that leave out a class: labels that start at 1 would make a class too many.

    Args:
        labels: (n,) labels >= 0 of the training images.
        where: Name of the labels, for messages.

    Raises:
        DataError: If a class below the highest label has no image.
    """
    found = torch.unique(labels)
    if len(found) <= int(found[-1]):
        missing = next(i for i, own in enumerate(found.tolist()) if own != i)
        raise DataError(
            f"{where} has {len(found)} labels from {int(found[0])} to {int(found[-1])}, and no "
            f"{missing}: classes are counted from 0 on, each with an image; "
            "np.unique(labels, return_inverse=True)[1] counts them so (over train and test at once)"
        )


def why_not(check: Callable[[], None]) -> str:
    """The message with which a check refuses data; empty if it does not."""
    try:
        check()
    except DataError as error:
        return str(error)
    return ""


def check_known(test_y: Tensor, train_y: Tensor, where: str, train: str) -> None:
    """Refuse test labels beyond the training labels.

    Args:
        test_y: (n,) labels.
        train_y: (m,) labels.
        where: Name of the test labels, for messages.
        train: Name of the training labels, for messages.

    Raises:
        DataError: If a test label is larger than all training labels.
    """
    highest = int(train_y.max())
    if int(test_y.max()) > highest:
        raise DataError(f"{where} has label {int(test_y.max())}, but {train} only 0..{highest}")
