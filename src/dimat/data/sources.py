"""Where images come from: one function a source, all in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True)
class Dataset:
    """Images and labels, all in memory.

    Args:
        name: The source.
        train_x: (n, height, width, channels), uint8, or float32 in [0, 1].
        train_y: (n,) int64 labels, 0 <= label < num_classes.
        test_x: Test images, of the same shape and dtype.
        test_y: Their labels.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def num_classes(self) -> int:
        """Number of classes in the training labels."""
        return int(self.train_y.max()) + 1

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return int(self.train_x.shape[3])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.train_x.shape[1]), int(self.train_x.shape[2])

    def only(self, index: NDArray[np.int64]) -> Dataset:
        """The same with these training images only."""
        kept = torch.from_numpy(index)
        return replace(self, train_x=self.train_x[kept], train_y=self.train_y[kept])


def load_dataset(source: str) -> Dataset:
    """Load ``"digits"`` or ``"npz:PATH"``.

    Raises:
        ConfigError: If no such source is known.
        DataError: If the images or labels cannot be used; names file, array and rule.
    """
    name, _, path = source.partition(":")
    if name not in SOURCES:
        raise ConfigError(
            f"setting 'data.source' is '{source}': no such source; {did_you_mean(name, SOURCES)}"
        )
    return SOURCES[name](path)


def load_images(source: str) -> Tensor:
    """The training images of a source alone, (n, height, width, channels); labels may be missing.

    Raises:
        ConfigError: If no such source is known.
        DataError: If the images cannot be used.
    """
    name, _, path = source.partition(":")
    if name != "npz":
        return load_dataset(source).train_x
    return _images(_read_npz(Path(path), ["train_x"])["train_x"], f"{path}: train_x")


def digits(path: str = "") -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels; every fifth image of a class is a test image."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.round(raw.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = raw.target.astype(np.int64)
    test = np.zeros(len(labels), np.bool_)
    for label in range(10):
        test[np.flatnonzero(labels == label)[::5]] = True
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    hold = torch.from_numpy(test)
    return Dataset("digits", x[~hold], y[~hold], x[hold], y[hold])


def npz(path: str) -> Dataset:
    """A NumPy archive with train_x, train_y, test_x, test_y.

    Images are NHWC (or NHW, one channel), uint8 or float in [0, 1]; labels are integers.
    """
    arrays = _read_npz(Path(path), [f"{part}_{kind}" for part in _PARTS for kind in "xy"])
    train_x, test_x = (_images(arrays[f"{part}_x"], f"{path}: {part}_x") for part in _PARTS)
    train_y, test_y = (_labels(arrays[f"{part}_y"], f"{path}: {part}_y") for part in _PARTS)
    for part, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if len(x) != len(y):
            raise DataError(f"{path}: {part}_x has {len(x)} images, {part}_y {len(y)} labels")
    if train_x.shape[1:] != test_x.shape[1:] or train_x.dtype != test_x.dtype:
        raise DataError(
            f"{path}: train_x holds {tuple(train_x.shape[1:])} {train_x.dtype}, test_x "
            f"{tuple(test_x.shape[1:])} {test_x.dtype}: they must be alike"
        )
    classes = int(train_y.max()) + 1
    if int(test_y.max()) >= classes:
        raise DataError(
            f"{path}: test_y has label {int(test_y.max())}, but train_y only 0..{classes - 1}"
        )
    return Dataset("npz", train_x, train_y, test_x, test_y)


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


def _images(array: NDArray[np.generic], where: str) -> Tensor:
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(f"{where} has shape {array.shape}: images are (n, height, width, channels)")
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{where} is {array.dtype}: images are uint8, or float in [0, 1]")
    images = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{where} has values that are not finite")
    if float(images.min()) < 0 or float(images.max()) > 1:
        raise DataError(
            f"{where} ranges over [{float(images.min()):.3g}, {float(images.max()):.3g}]: float "
            "images must lie in [0, 1]; divide by the largest value, or store uint8"
        )
    return images


def _labels(array: NDArray[np.generic], where: str) -> Tensor:
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(
            f"{where} is {array.dtype} of shape {array.shape}: labels are integers (n,)"
        )
    labels = torch.from_numpy(array.astype(np.int64))
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{where} has label {int(labels.min())}: labels start at 0")
    if not len(labels):
        raise DataError(f"{where} is empty")
    return labels


SOURCES: dict[str, Callable[[str], Dataset]] = {"digits": digits, "npz": npz}
