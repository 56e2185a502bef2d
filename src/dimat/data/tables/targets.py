"""The targets in a table: classes of any name, or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimat.data.tables.cells import (
    is_missing,
    is_number,
    listed,
    meaning,
    numbers,
    place_of,
    plain,
    refuse_infinite,
    refuse_missing,
    texts,
)
from dimat.errors import DataError

_MISSING = "a target must be there; remove the row"

Targets = Mapping[str, NDArray[np.generic]]


def class_targets(
    tables: Mapping[str, Any], target: Sequence[str], where: str
) -> tuple[Targets, tuple[str, ...]]:
    """The labels in a column by part, and the names of the classes: its different values, sorted.

    Args:
        tables: PyArrow tables by their part.
        target: The column, one alone.
        where: The source, for messages.

    Raises:
        DataError: If there are several, or cells are missing or fractions.
    """
    if len(target) != 1:
        raise DataError(
            f"{where}: data.target names {len(target)} columns ({listed(list(target))}): classes "
            "are in one; several are for the tasks multilabel and regression"
        )
    (name,) = target
    cells = {
        part: _as_classes(table, name, place_of(where, part, tables))
        for part, table in tables.items()
    }
    classes = sorted({value for own in cells.values() for value in own.unique().to_pylist()})
    place = {value: i for i, value in enumerate(classes)}
    labels = {
        part: np.array([place[value] for value in own.to_pylist()], np.int64)
        for part, own in cells.items()
    }
    names = (str(own).lower() if isinstance(own, bool) else str(own) for own in classes)
    return labels, tuple(names)


def _as_classes(table: Any, name: str, where: str) -> Any:
    """A column of whole numbers, of true and false, or of texts."""
    import pyarrow
    from pyarrow import types

    column = plain(table.column(name))
    kind = meaning(column)
    if kind == "others":
        raise DataError(
            f"{where}: column '{name}' is {column.type}: classes are text, whole numbers, or true "
            "and false"
        )
    if kind == "texts":
        column = texts(column)
    refuse_missing(where, name, column.is_null(nan_is_null=True).to_numpy(), _MISSING)
    if types.is_floating(column.type) or types.is_decimal(column.type):
        found = numbers(column)
        wrong = (found != np.floor(found)) | (np.abs(found) >= 2**63)
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"{where}: column '{name}' has fractions, as {found[row]:g} in row {row + 1}: "
                "classes are text or whole numbers; numbers are targets of --task regression"
            )
        column = column.cast(pyarrow.int64())
    return column


def number_targets(tables: Mapping[str, Any], target: Sequence[str], where: str) -> Targets:
    """The numbers in some columns by part, (rows, columns).

    Args:
        tables: PyArrow tables by their part.
        target: The columns.
        where: The source, for messages.

    Raises:
        DataError: If cells are missing or no numbers.
    """
    return {
        part: np.stack(
            [_as_numbers(own, name, place_of(where, part, tables)) for name in target], 1
        )
        for part, own in tables.items()
    }


def _as_numbers(table: Any, name: str, where: str) -> NDArray[np.float64]:
    column = table.column(name)
    if meaning(column) == "texts":
        said = texts(column).to_pylist()
        no_number = (text and not (is_number(text) or is_missing(text)) for text in said)
        row = next((row for row, wrong in enumerate(no_number) if wrong), 0)
        raise DataError(
            f"{where}: column '{name}' is text, as '{said[row]}' in row {row + 1}: targets of this "
            "task are numbers, without quotes and with a decimal point: mend it; text is a class, "
            "of --task classification"
        )
    if meaning(column) != "numbers":
        raise DataError(
            f"{where}: column '{name}' is {column.type}, such as '{column[0]}': targets of this "
            "task are numbers"
        )
    found = numbers(column)
    refuse_missing(where, name, np.isnan(found), _MISSING)
    refuse_infinite(where, name, found)
    return found
