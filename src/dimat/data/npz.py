"""NumPy archives."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dimat.data.dataset import Dataset, Tell, as_images, as_labels, check_known, quiet
from dimat.errors import DataError


def npz(path: str, tell: Tell = quiet) -> Dataset:
    """A NumPy archive with train_x, train_y, test_x, test_y.

    Images are NHWC (or NHW, one channel), uint8 or float in [0, 1]; labels are integers.
    """
    arrays = _read_npz(Path(path), [f"{part}_{kind}" for part in _PARTS for kind in "xy"])
    train_x, test_x = (as_images(arrays[f"{part}_x"], f"{path}: {part}_x") for part in _PARTS)
    train_y, test_y = (as_labels(arrays[f"{part}_y"], f"{path}: {part}_y") for part in _PARTS)
    for part, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if len(x) != len(y):
            raise DataError(f"{path}: {part}_x has {len(x)} images, {part}_y {len(y)} labels")
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise DataError(
            f"{path}: train_x holds {tuple(train_x.shape[1:])} {train_x.dtype}, test_x "
            f"{tuple(test_x.shape[1:])} {test_x.dtype}: they must be alike"
        )
    check_known(test_y, train_y, f"{path}: test_y", "train_y")
    return Dataset("npz", train_x, train_y, test_x, test_y)


def npz_images(path: str) -> Tensor:
    """The training images alone, which need no labels beside them."""
    return as_images(_read_npz(Path(path), ["train_x"])["train_x"], f"{path}: train_x")


_PARTS = ("train", "test")
# All that NumPy and zipfile raise for a file with one byte changed (RuntimeError: encrypted, or an
# unknown compression).
_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{path}: one array, not an .npz archive of {', '.join(names)}")
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise DataError(
                    f"{path}: lacks {', '.join(missing)} (it has {', '.join(archive.files)})"
                )
            arrays = {name: archive[name] for name in names}
    except _DAMAGE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: truncated or not an .npz file ({error})") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of any other file
            raise DataError(f"{path}: {name} is no array, but some other file in an archive")
    return arrays
