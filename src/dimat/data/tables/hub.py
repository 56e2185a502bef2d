"""The tables of what `datasets` loaded, a split a part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dimat.data.dataset import Dataset
from dimat.data.options import SourceOptions
from dimat.data.tables.dataset import of_tables

TEST_SPLITS = ("test", "validation", "valid", "val")


def hub_tables(
    splits: Mapping[str, Any], label: str, options: SourceOptions, where: str
) -> Dataset:
    """The data set of the splits train and test, or else validation, valid or val.

    The target is the one that the options name, or else the label, or the first column of type
    ClassLabel, whose classes have the names that it says. A split to test on whose labels are
    hidden (-1) gives way to the next.

    Args:
        splits: Data sets of `datasets` by name.
        label: Name of the column of labels; empty if none is said.
        options: Which columns are what.
        where: The source, for messages.

    Raises:
        DataError: If columns are missing, or their cells cannot be used.
    """
    import datasets

    features = next(iter(splits.values())).features
    named = {n: kind for n, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    if not options.target and options.task.has_classes:
        options = replace(options, target=(label,) if label else tuple(named)[:1])
    parts = {"train": "train"} if "train" in splits else {}
    usable = [name for name in TEST_SPLITS if name in splits and not _hidden(splits[name], named)]
    if usable:
        parts["test"] = usable[0]
    tables = {part: _with_names(splits[split], named) for part, split in parts.items()}
    return of_tables("hf", tables, options, where)


def _hidden(split: Any, named: Mapping[str, Any]) -> bool:
    """Whether a split has labels that are hidden."""
    from pyarrow import compute

    columns = (split.data.table.column(name) for name in named)
    return any((compute.min(own).as_py() or 0) < 0 for own in columns)


def _with_names(split: Any, named: Mapping[str, Any]) -> Any:
    """The table of a split with the names of classes in place of their numbers."""
    import pyarrow

    table = split.data.table
    for name, kind in named.items():
        places = pyarrow.compute.cast(table.column(name), pyarrow.int64())
        texts = pyarrow.chunked_array([pyarrow.array(kind.names)]).take(places.combine_chunks())
        table = table.set_column(table.column_names.index(name), name, texts)
    return table
