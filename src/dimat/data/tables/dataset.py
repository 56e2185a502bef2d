"""The data set that a table is, once it is said which column is what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dimat.data.dataset import Dataset
from dimat.data.options import SourceOptions
from dimat.data.tables.cells import listed, place_of
from dimat.data.tables.inputs import input_columns, inputs
from dimat.data.tables.targets import class_targets, number_targets
from dimat.data.tables.text import as_texts
from dimat.errors import DataError, did_you_mean
from dimat.tasks import Classification, Multilabel, Regression, Segmentation

# Of others, such as language-modeling, the tokens of a text are the targets.
_NEED_TARGETS = (Classification, Multilabel, Regression, Segmentation)


def of_tables(name: str, tables: Mapping[str, Any], options: SourceOptions, where: str) -> Dataset:
    """The data set of one table, or of a table of training and one of test samples.

    Args:
        name: Name of the source.
        tables: PyArrow tables by part, train or test; one alone is the whole, without parts.
        options: Which columns are what, and the task.
        where: The source with its place, for messages.

    Raises:
        DataError: If columns are missing, or their cells cannot be used.
    """
    _check_names(tables, where)
    names = next(iter(tables.values())).column_names
    used = _used(names, options, where)
    for table in tables.values():
        if not table.num_rows:
            raise DataError(f"{where}: has a header ({listed(names)}), and no row")
    classes: tuple[str, ...] = options.target
    y: Mapping[str, Any] = {}
    if options.task.has_classes:
        y, classes = class_targets(tables, options.target, where)
    elif options.target:
        y = number_targets(tables, options.target, where)
    if not options.text:
        columns = input_columns(tables, used, options.categories, where)
        x = _inputs(tables, columns, options.fill, where)
        return replace(_dataset(name, x, y, classes, tables), columns=columns)
    found = as_texts(tables, options, where)
    if not y:
        y, classes = found.targets, found.tokens
    data = _dataset(name, found.ids, y, classes, tables)
    return replace(data, padding=found.padding, vocabulary=len(found.tokens))


def _dataset(
    name: str,
    x: Mapping[str, Tensor],
    y: Mapping[str, Any],
    classes: Sequence[str],
    tables: Mapping[str, Any],
) -> Dataset:
    parts = {part: (own, torch.as_tensor(y[part])) for part, own in x.items()}
    data = Dataset.of_parts(name, parts, classes, images=False)
    return replace(data, divided=len(tables) > 1)


def _inputs(
    tables: Mapping[str, Any], columns: Sequence[str], fill: float | None, where: str
) -> Mapping[str, Tensor]:
    """The inputs of each part."""
    return {
        part: torch.from_numpy(inputs(table, columns, fill, place_of(where, part, tables)))
        for part, table in tables.items()
    }


def _check_names(tables: Mapping[str, Any], where: str) -> None:
    """Refuse columns of one name, and parts with other columns."""
    names = [table.column_names for table in tables.values()]
    twice = [name for name, count in Counter(names[0]).items() if count > 1]
    if twice:
        raise DataError(
            f"{where}: has {Counter(names[0])[twice[0]]} columns '{twice[0]}': rename one"
        )
    for other in names[1:]:
        differing = {*names[0]} ^ {*other}
        if differing:
            raise DataError(
                f"{where}: column '{min(differing)}' is in one of {' and '.join(tables)} only"
            )


def _used(names: Sequence[str], options: SourceOptions, where: str) -> list[str]:
    """The columns that are inputs: all but targets, and those that are left out; or the text."""
    if not options.target and (not options.text or isinstance(options.task, _NEED_TARGETS)):
        raise DataError(
            f"{where}: say in data.target which column is to be learned (columns: "
            f"{listed(list(names))})"
        )
    chosen = {
        "target": options.target,
        "leave_out": options.leave_out,
        "text": (options.text,) if options.text else (),
    }
    for setting, own in chosen.items():
        for name in own:
            if name not in names:
                raise DataError(
                    f"{where}: has no column '{name}', which data.{setting} names; "
                    f"{did_you_mean(name, names)}"
                )
    used = [name for name in names if name not in {*options.target, *options.leave_out}]
    if not used:
        raise DataError(
            f"{where}: no column is left to learn from (columns: {listed(list(names))})"
        )
    return used
