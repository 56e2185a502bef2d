"""The source ``folder``: pictures with one subfolder a class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from dimat.data.dataset import Dataset, Tell, quiet
from dimat.data.pictures import Picture, decode
from dimat.errors import DataError
from dimat.files import open_regular

_READ = (".png", ".jpg", ".jpeg")
_NOT_READ = (".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_LAYOUT = "CLASS/*.png, *.jpg or *.jpeg"

Classes = Mapping[str, Sequence[Path]]


def folder(path: str, tell: Tell = quiet) -> Dataset:
    """The pictures in ``PATH/train/CLASS``, and in ``PATH/test/CLASS`` or else ``PATH/val/CLASS``.

    Label i is the i-th of the sorted names of train's folders; a folder inside a class belongs to
    it. Images come in the order of their sorted names, not in the file system's. Names that start
    with a dot are left out.

    Args:
        path: The folder.
        tell: Listener to the decoding.

    Raises:
        DataError: If a folder or its pictures are missing, test has a class that train has not, or
            a picture cannot be used, with its name.
    """
    train_folder, test_folder = _part(path, "train"), _part(path, "test", "val")
    train, test = _classes(train_folder), _classes(test_folder)
    _check_classes(train, train_folder, test, test_folder)
    label = {name: i for i, name in enumerate(train)}
    train_y, test_y = (
        torch.tensor([label[name] for name, files in own.items() for _ in files])
        for own in (train, test)
    )
    files = [file for own in (train, test) for some in own.values() for file in some]
    images = decode([Picture(str(file), partial(open_regular, file)) for file in files], tell)
    return Dataset("folder", images[: len(train_y)], train_y, images[len(train_y) :], test_y)


def _part(path: str, *names: str) -> Path:
    """The first of some folders that exists."""
    if not path or not Path(path).is_dir():
        raise DataError(f"folder:{path}: no such folder")
    for name in names:
        if (Path(path) / name).is_dir():
            return Path(path) / name
    wanted = " or ".join(f"{Path(path) / name}/{_LAYOUT}" for name in names)
    raise DataError(f"folder:{path}: has no folder {' or '.join(names)}; looked for {wanted}")


def _classes(part: Path) -> dict[str, list[Path]]:
    """The pictures of every class, sorted by name."""
    folders, files = _entries(part)
    for file in files:
        if _is_picture(file):
            raise DataError(f"{file}: is in no class; pictures are {part}/{_LAYOUT}")
    classes = {own.name: [file for file in _files(own) if _is_picture(file)] for own in folders}
    if not any(classes.values()):
        raise DataError(f"{part}: there is no picture; looked for {part}/{_LAYOUT}")
    return classes


def _check_classes(train: Classes, train_folder: Path, test: Classes, test_folder: Path) -> None:
    for name, files in train.items():
        if not files:
            raise DataError(
                f"{train_folder / name}: there is no picture of this class (*.png, *.jpg or "
                "*.jpeg); add some, or remove the folder"
            )
    for name in test:
        if name not in train:
            known = [*list(train)[:5], "…"] if len(train) > 5 else list(train)
            raise DataError(
                f"{test_folder / name}: train has no such class, but {len(train)} others "
                f"({', '.join(known)}); name the folder as in train, or remove it"
            )


def _files(folder: Path) -> list[Path]:
    """All files in a folder, then those in its subfolders; no folder is read twice."""
    found: list[Path] = []
    seen: set[Path] = set()
    left = [folder]
    while left:
        own = left.pop()
        real = own.resolve()
        if real in seen:
            raise DataError(f"{own}: a link to {real}, which is read already; remove it")
        seen.add(real)
        folders, files = _entries(own)
        found += files
        left += reversed(folders)
    return found


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The subfolders and the files of a folder, sorted by name; links count as their targets."""
    try:
        with os.scandir(folder) as listing:
            shown = sorted((e for e in listing if e.name[0] != "."), key=lambda e: e.name)
            kinds = [(Path(entry.path), entry.is_dir()) for entry in shown]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    return [own for own, is_dir in kinds if is_dir], [own for own, is_dir in kinds if not is_dir]


def _is_picture(file: Path) -> bool:
    if file.suffix.lower() in _NOT_READ:
        raise DataError(f"{file}: only .png, .jpg and .jpeg are read; convert it, or remove it")
    return file.suffix.lower() in _READ
