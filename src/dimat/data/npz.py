"""The source ``npz``: NumPy archives."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dimat.data.dataset import (
    Dataset,
    Tell,
    as_images,
    as_labels,
    check_counted,
    check_known,
    quiet,
    why_not,
)
from dimat.errors import DataError, first_line
from dimat.files import check_bytes


def npz(path: str, tell: Tell = quiet) -> Dataset:
    """The data set in a NumPy archive with train_x, train_y, test_x and test_y.

    Images are NHWC (or NHW, one channel), uint8 or float in [0, 1]; labels are integers.
    An archive may have only the two arrays of one part, train or test.

    Args:
        path: The archive.
        tell: Not told anything: nothing is decoded.

    Raises:
        DataError: If the archive cannot be read, or its arrays cannot be used.
    """
    pairs = [(f"{part}_x", f"{part}_y") for part in _PARTS]
    arrays, lacks = _read_npz(Path(path), pairs)
    there = [part for part in _PARTS if f"{part}_x" in arrays]
    x = {part: as_images(arrays[f"{part}_x"], f"{path}: {part}_x") for part in there}
    y = {part: as_labels(arrays[f"{part}_y"], f"{path}: {part}_y") for part in there}
    for part in there:
        if len(x[part]) != len(y[part]):
            raise DataError(
                f"{path}: {part}_x has {len(x[part])} images, {part}_y {len(y[part])} labels"
            )
    kinds = [(tuple(own.shape[1:]), own.dtype) for own in x.values()]
    if kinds[0] != kinds[-1]:
        raise DataError(
            f"{path}: train_x holds {kinds[0][0]} {kinds[0][1]}, test_x "
            f"{kinds[1][0]} {kinds[1][1]}: they must be alike"
        )
    return Dataset.of_parts(
        "npz",
        {part: (x[part], y[part]) for part in there},
        refused={**dict.fromkeys(_PARTS, lacks), "labels": why_not(lambda: _check_labels(y, path))},
    )


def _check_labels(labels: Mapping[str, Tensor], path: str) -> None:
    """Refuse labels of an archive that leave out a class."""
    if "train" in labels:
        if "test" in labels:
            check_known(labels["test"], labels["train"], f"{path}: test_y", "train_y")
        check_counted(labels["train"], f"{path}: train_y")


def npz_images(path: str) -> Tensor:
    """The training images in a NumPy archive, which need have no labels beside them.

    Args:
        path: The archive.

    Raises:
        DataError: If the archive cannot be read, or its images cannot be used.
    """
    arrays, _ = _read_npz(Path(path), [("train_x",)])
    return as_images(arrays["train_x"], f"{path}: train_x")


_PARTS = ("train", "test")
_MAGIC = b"\x93NUMPY"
# All errors that NumPy and zipfile raise for a file with one byte changed (RuntimeError: encrypted,
# or an unknown compression).
_DAMAGE = (OSError, TypeError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _read_npz(
    path: Path, parts: Sequence[tuple[str, ...]]
) -> tuple[dict[str, NDArray[np.generic]], str]:
    """The arrays of an archive, of one part at least, and a message of what it lacks."""
    names = [name for part in parts for name in part]
    lacks = ""
    if not path.is_file():
        raise DataError(f"{path}: {'no regular file' if path.exists() else 'no such file'}")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{path}: one array, not an .npz archive of {', '.join(names)}")
            missing = [name for name in names if name not in archive.files]
            if missing:
                lacks = f"{path}: lacks {', '.join(missing)} (it has {', '.join(archive.files)})"
            names = [name for part in parts if not {*part} & {*missing} for name in part]
            if not names or any(0 < len({*part} & {*missing}) < len(part) for part in parts):
                raise DataError(lacks)
            _check_sizes(archive.zip, path, names)
            arrays = {name: archive[name] for name in names}
    except _DAMAGE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: truncated or not an .npz file ({first_line(error)})") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of any other file
            raise DataError(f"{path}: {name} is no array, but some other file in an archive")
    return arrays, lacks


def _check_sizes(archive: zipfile.ZipFile, path: Path, names: Sequence[str]) -> None:
    """Refuse arrays whose headers claim another size than they have, before they take memory."""
    on_disk, needed = path.stat().st_size, 0
    for name in names:
        info = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
        needed += info.file_size
        with archive.open(info) as member:
            if member.read(len(_MAGIC)) != _MAGIC:
                continue  # no array: it is refused by what NumPy makes of it
            member.seek(0)
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
            said = math.prod(shape) * dtype.itemsize
            there = info.file_size - member.tell()
        if dtype.hasobject:
            raise DataError(f"{path}: {name} holds Python objects, and nothing is unpickled")
        if said != there:
            raise DataError(
                f"{path}: {name} is said to be {dtype} of shape {shape}, {said:,} bytes, and "
                f"{there:,} are there"
            )
    check_bytes(f"{path}: {', '.join(names)}", needed, on_disk, DataError)
