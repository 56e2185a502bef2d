"""The source ``folder``: pictures with one subfolder a class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dimat.data.dataset import Dataset, Tell, quiet, why_not
from dimat.data.pictures import Picture, decode
from dimat.errors import DataError
from dimat.files import open_regular

_READ = (".png", ".jpg", ".jpeg")
_NOT_READ = (".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_LAYOUT = "CLASS/*.png, *.jpg or *.jpeg"
_PARTS = {"train": ("train",), "test": ("test", "val")}

Classes = Mapping[str, Sequence[Path]]


def folder(path: str, tell: Tell = quiet) -> Dataset:
    """The pictures in ``PATH/train/CLASS``, and in ``PATH/test/CLASS`` or else ``PATH/val/CLASS``.

    Without train, test and val these are the pictures in ``PATH/CLASS``, not divided into parts.
    Label i is the i-th of the sorted names of the folders; a folder inside a class belongs to it.
    Images come in the order of their sorted names, not in the file system's. Names that start with
    a dot are left out. One of train and test may be missing.

    Args:
        path: The folder.
        tell: Listener to the decoding.

    Raises:
        DataError: If a folder or its pictures are missing, or a picture cannot be used, with its
            name.
    """
    if not path or not Path(path).is_dir():
        raise DataError(f"folder:{path}: no such folder")
    folders, refused = _parts(path)
    found = {part: _classes(own) for part, own in folders.items()}
    if "train" in found:
        _check_pictures(found["train"], folders["train"])
        if "test" in found:
            refused["labels"] = why_not(
                lambda: _check_known(found["train"], found["test"], folders["test"])
            )
    label = {name: i for i, name in enumerate(sorted({n for own in found.values() for n in own}))}
    labels = {
        part: torch.tensor([label[name] for name, files in own.items() for _ in files])
        for part, own in found.items()
    }
    files = [file for own in found.values() for some in own.values() for file in some]
    images = decode([Picture(str(file), partial(open_regular, file)) for file in files], tell)
    split = torch.split(images, [len(own) for own in labels.values()])
    parts = {part: (x, labels[part]) for part, x in zip(labels, split, strict=True)}
    data = Dataset.of_parts("folder", parts, tuple(label), refused)
    return replace(data, divided=folders.get("train") != Path(path))


def _parts(path: str) -> tuple[dict[str, Path], dict[str, str]]:
    """The folder of each part, or why there is none; without parts that of all classes."""
    folders, refused = {}, {}
    for part, names in _PARTS.items():
        try:
            folders[part] = _part(path, *names)
        except DataError as error:
            refused[part] = str(error)
    if folders:
        return folders, refused
    if not _entries(Path(path))[0]:
        raise DataError(f"{refused['train']}, or for {Path(path) / _LAYOUT} without parts")
    return {"train": Path(path)}, {}


def _part(path: str, *names: str) -> Path:
    """The first of some folders that exists."""
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


def _check_pictures(train: Classes, train_folder: Path) -> None:
    """Refuse a class without a training picture."""
    for name, files in train.items():
        if not files:
            raise DataError(
                f"{train_folder / name}: there is no picture of this class (*.png, *.jpg or "
                "*.jpeg); add some, or remove the folder"
            )


def _check_known(train: Classes, test: Classes, test_folder: Path) -> None:
    """Refuse a class that is only in test."""
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
