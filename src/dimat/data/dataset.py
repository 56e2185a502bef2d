"""A data set in memory, and the rules for images and labels of every source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    __repr__ = brief

    @property
    def num_classes(self) -> int:
        """Number of classes in the training labels."""
        return int(self.train_y.max()) + 1

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
