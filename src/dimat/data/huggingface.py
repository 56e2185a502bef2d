"""The source ``hf``: data sets of the Hugging Face Hub, and folders of Parquet files like them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dimat.data.dataset import Dataset, Tell, quiet, why_not
from dimat.data.options import DEFAULTS, SourceOptions
from dimat.data.pictures import Picture, decode
from dimat.data.tables import TEST_SPLITS, hub_tables
from dimat.errors import DataError
from dimat.files import open_regular
from dimat.tasks.labels import as_labels, check_counted, check_known


def huggingface(address: str, tell: Tell = quiet, options: SourceOptions = DEFAULTS) -> Dataset:
    """The data set ``NAME[:CONFIG][@REVISION][#LABEL]`` on the Hub, or ``FOLDER[#LABEL]``.

    Images are the first column of type Image. Labels are the first of type ClassLabel, or the
    column LABEL, which may also be of integers. Test images are the first of the splits test,
    validation, valid and val that has labels. It is loaded by `datasets`, which runs no code of a
    data set. With options that name a text or a target it is a table.

    Args:
        address: The data set, as above.
        tell: Listener to the decoding; `datasets` itself shows downloads.
        options: Of a table which columns are what, and the task.

    Raises:
        DataError: If `datasets` is not installed or cannot load it, a split or column is missing,
            or images or labels cannot be used, with data set, split and row.
    """
    where = f"hf:{address}"
    place = Address.parse(address)
    splits = _load(place, where)
    there = ", ".join(splits)
    refused = {
        "train": f"{where}: has no split train (it has {there})",
        "test": f"{where}: has no split {' or '.join(TEST_SPLITS[:2])} to test on (it has {there})",
    }
    if not {"train", *TEST_SPLITS} & {*splits}:
        raise DataError(refused["train"])
    features = next(splits[name] for name in ("train", *TEST_SPLITS) if name in splits).features
    if options.text or options.target:
        return hub_tables(splits, place.label, options, where)
    label = _label_column(features, place.label, where)
    labels, split_of = {}, {"train": "train"}
    if "train" in splits:
        labels["train"] = _labels(splits, "train", label, where)
    if {*TEST_SPLITS} & {*splits}:
        try:
            split_of["test"], labels["test"] = _test_labels(splits, label, where)
        except DataError as error:
            refused["test"] = str(error)
    if not labels:
        raise DataError(refused["test"])
    # A ClassLabel names classes that may have no image.
    names = tuple(getattr(features[label], "names", ()))
    if "train" in labels:
        refused["labels"] = _why_not_counted(labels, split_of, label, where, named=bool(names))
    image = _image_column(features, where)
    pictures = [p for part in labels for p in _pictures(splits, split_of[part], image, where)]
    split = torch.split(decode(pictures, tell), [len(own) for own in labels.values()])
    parts = {part: (x, labels[part]) for part, x in zip(labels, split, strict=True)}
    return Dataset.of_parts("hf", parts, names, refused)


def _why_not_counted(
    labels: Mapping[str, Tensor],
    split_of: Mapping[str, str],
    column: str,
    where: str,
    *,
    named: bool,
) -> str:
    """Why labels cannot be counted by those of the training images; empty if they can."""
    train = labels["train"]

    def check() -> None:
        if "test" in labels:
            check_known(labels["test"], train, f"{where}: {split_of['test']}", "train")
        if not named:
            check_counted(train, f"{where}: train: {column}")

    return why_not(check)


@dataclass(frozen=True)
class Address:
    """The parts of a data set's address.

    Args:
        name: Name on the Hub, or path of a folder.
        config: Name of a configuration; the only one if empty.
        revision: Branch, tag or commit; main if empty.
        label: Name of the column of labels; the first ClassLabel if empty.
    """

    name: str
    config: str = ""
    revision: str = ""
    label: str = ""

    @classmethod
    def parse(cls, address: str) -> Address:
        """The parts of ``NAME[:CONFIG][@REVISION][#LABEL]``; the path of a folder stays whole.

        Args:
            address: The address.

        Raises:
            DataError: If there is no name.

        >>> Address.parse("a/b:small@v2#kind")
        Address(name='a/b', config='small', revision='v2', label='kind')
        """
        if address and Path(address).is_dir():
            return cls(address)
        rest, _, label = address.partition("#")
        if rest and Path(rest).is_dir():
            return cls(rest, label=label)
        rest, _, revision = rest.partition("@")
        name, _, config = rest.partition(":")
        if not name:
            raise DataError(f"hf:{address}: names no data set: hf:NAME, as hf:uoft-cs/cifar10")
        return cls(name, config, revision, label)


def _load(place: Address, where: str) -> Mapping[str, Any]:
    """All splits of a data set by name."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f'{where}: needs pip install "dimat[hf]" ({error})') from error
    try:
        loaded: Mapping[str, Any] = datasets.load_dataset(
            place.name, place.config or None, revision=place.revision or None
        )
    except Exception as error:  # of the network, of Arrow, of the library: nobody lists them
        raise DataError(f"{where}: cannot be loaded: {_reason(error)}") from error
    return loaded


def _reason(error: BaseException) -> str:
    """One line with the message of an error and that of its root cause."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    texts = [" ".join(str(one).split()) or type(one).__name__ for one in (error, root)]
    return texts[0] if root is error else f"{texts[0]} ({texts[1]})"


def _image_column(features: Mapping[str, Any], where: str) -> str:
    """Name of the first column of images: of type Image, or of its bare structure.

    Parquet files that `datasets` did not write have the latter.
    """
    import datasets

    for name, kind in features.items():
        if isinstance(kind, datasets.Image) or (isinstance(kind, dict) and "bytes" in kind):
            return name
    raise DataError(f"{where}: has no column of images (columns: {', '.join(features)})")


def _label_column(features: Mapping[str, Any], wanted: str, where: str) -> str:
    import datasets

    if wanted and wanted not in features:
        raise DataError(f"{where}: has no column '{wanted}' (columns: {', '.join(features)})")
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not wanted and not classes:
        raise DataError(
            f"{where}: has no column of class labels (columns: {', '.join(features)}); "
            f"name one of integers from 0 on: {where}#COLUMN"
        )
    return wanted or classes[0]


def _labels(splits: Mapping[str, Any], split: str, column: str, where: str) -> Tensor:
    cells, here = splits[split].data.column(column), f"{where}: {split}: {column}"
    if cells.null_count:
        raise DataError(f"{here} is empty in {cells.null_count} of {len(cells)} rows")
    return as_labels(cells.to_numpy(), here)


def _test_labels(splits: Mapping[str, Any], column: str, where: str) -> tuple[str, Tensor]:
    """Name and labels of the first split to test on whose labels can be used.

    Competitions hide the labels of their test sets behind -1.
    """
    refused = []
    for split in (split for split in TEST_SPLITS if split in splits):
        try:
            return split, _labels(splits, split, column, where)
        except DataError as error:
            refused.append(error)
    raise refused[0]


def _pictures(splits: Mapping[str, Any], split: str, column: str, where: str) -> list[Picture]:
    cells = splits[split].data.column(column)
    return [
        Picture(f"{where}: {split}, row {row}", partial(_open, cells, row))
        for row in range(len(cells))
    ]


def _open(cells: Any, row: int) -> BinaryIO:
    """The opened image in a cell of an image column: the bytes of a file, or the path of one."""
    cell = cells[row].as_py() or {}
    if cell.get("bytes") is not None:
        return io.BytesIO(cell["bytes"])
    if cell.get("path") is None:
        raise ValueError("there is no image")
    return open_regular(Path(cell["path"]))
