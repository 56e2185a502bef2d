"""Rules for the numbers of classes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.errors import DataError
from dimat.tasks.finite import first, place_of

_HIGHEST = 2**31 - 1


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
    return as_classes(array, where)


def as_classes(array: NDArray[np.generic], where: str) -> Tensor:
    """Numbers of classes, of any shape, as an int64 tensor.

    Args:
        array: Integers.
        where: Name of the array, for messages.

    Raises:
        DataError: If one is negative or too large, or there is none.
    """
    if not array.size:
        raise DataError(f"{where} is empty")
    if int(array.min()) < 0:
        below = np.less(array, 0)
        raise DataError(
            f"{where} has label {array[first(below)]}: labels start at 0; the first below is "
            f"{place_of(below)}"
        )
    if int(array.max()) > _HIGHEST:
        above = np.greater(array, _HIGHEST)
        raise DataError(
            f"{where} has label {array[first(above)]}: labels are at most {_HIGHEST:,}; the first "
            f"above is {place_of(above)}"
        )
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
