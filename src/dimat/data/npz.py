"""The source ``npz``: NumPy archives."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.data.dataset import Dataset, Tell, as_arrays, as_images, looks_channels_first, quiet
from dimat.data.options import DEFAULTS, SourceOptions
from dimat.errors import DataError, first_line
from dimat.files import check_bytes


def npz(path: str, tell: Tell = quiet, options: SourceOptions = DEFAULTS) -> Dataset:
    """The data set in a NumPy archive with train_x, train_y, test_x and test_y.

    Inputs of three or four axes are images, NHWC (or NHW, one channel), uint8 or float in [0, 1];
    of another number of axes they are arrays: floats, or whole numbers, which are ids of tokens.
    Targets are numbers; of ids they may be missing, and are those ids then. An archive may have
    only the arrays of one part, train or test.

    Args:
        path: The archive.
        tell: Not told anything: nothing is decoded.
        options: Of them ``kind``.

    Raises:
        DataError: If the archive cannot be read, or its arrays cannot be used.
    """
    arrays, lacks = _read_npz(Path(path), [(f"{part}_x", f"{part}_y") for part in _PARTS])
    there = [part for part in _PARTS if f"{part}_x" in arrays]
    images = _are_images(arrays[f"{there[0]}_x"], options)
    x = {part: _inputs(arrays, f"{part}_x", path, images=images) for part in there}
    kinds = [(tuple(own.shape[1:]), own.dtype) for own in x.values()]
    if kinds[0] != kinds[-1]:
        raise DataError(
            f"{path}: train_x holds {kinds[0][0]} {kinds[0][1]}, test_x "
            f"{kinds[1][0]} {kinds[1][1]}: they must be alike"
        )
    if not any(f"{part}_y" in arrays for part in there):
        if images or x[there[0]].is_floating_point():
            raise DataError(lacks)
        y = x
    else:
        y = {part: _targets(arrays[f"{part}_y"], f"{path}: {part}_y") for part in there}
    return Dataset.of_parts(
        "npz",
        {part: (x[part], y[part]) for part in there},
        refused=dict.fromkeys(_PARTS, lacks),
        images=images,
    )


def _inputs(
    arrays: Mapping[str, NDArray[np.generic]], name: str, path: str, *, images: bool
) -> Tensor:
    """The inputs of an archive, as images or as they are."""
    if not images:
        return as_arrays(arrays[name], f"{path}: {name}")
    try:
        return as_images(arrays[name], f"{path}: {name}")
    except DataError as error:
        value = arrays[name]
        if not value.size or (value.dtype.kind == "f" and not np.isfinite(value).all()):
            raise  # it would be no better as an array
        if looks_channels_first(value.shape):
            raise  # an image, which would not be normalized as an array
        way = "(what is no image is read as it is with data.kind arrays, --kind of a merge)"
        raise DataError(f"{error} {way}") from error


def _targets(array: NDArray[np.generic], where: str) -> Tensor:
    """Numbers as a tensor, for a task to judge."""
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError as error:
        raise DataError(f"{where} is {array.dtype}: targets are numbers") from error


def npz_inputs(path: str, options: SourceOptions = DEFAULTS) -> Dataset:
    """The training inputs in a NumPy archive, which need have no targets beside them.

    Args:
        path: The archive.
        options: Of them ``kind``.

    Returns:
        A data set whose targets mean nothing, without a test part.

    Raises:
        DataError: If the archive cannot be read, or its inputs cannot be used.
    """
    arrays, _ = _read_npz(Path(path), [("train_x",)])
    images = _are_images(arrays["train_x"], options)
    x = _inputs(arrays, "train_x", path, images=images)
    y = torch.zeros(len(x), dtype=torch.int64) if x.is_floating_point() or images else x
    return Dataset.of_parts("npz", {"train": (x, y)}, images=images)


def _are_images(array: NDArray[np.generic], options: SourceOptions) -> bool:
    return array.ndim in (3, 4) if options.kind == "auto" else options.kind == "images"


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
            if not any(part[-1] in archive.files for part in parts):  # perhaps they need none
                parts = [part[:1] for part in parts]
            names = [name for part in parts if not {*part} & {*missing} for name in part]
            if not names or any(0 < len({*part} & {*missing}) < len(part) for part in parts):
                raise DataError(lacks)
            _check_sizes(archive.zip, path, names)
            arrays = {name: archive[name] for name in names}
    except _DAMAGE as error:
        if isinstance(error, DataError):
            raise
        # What is no NumPy file at all NumPy takes for a pickle, and says how to load it unsafely.
        why = "" if "pickle" in str(error) else f" ({first_line(error)})"
        raise DataError(f"{path}: truncated or not an .npz file{why}") from error
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
