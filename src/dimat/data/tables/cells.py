"""Columns of a table as arrays, and what is refused of their cells by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dimat.errors import DataError

Meaning = Literal["numbers", "texts", "others"]
_MOST_SHOWN = 8  # columns in a message


def meaning(column: Any) -> Meaning:
    """What the cells of a column are; numbers where all are missing.

    Args:
        column: A PyArrow column.
    """
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    is_number = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
    if types.is_null(kind) or any(one(kind) for one in is_number):
        return "numbers"
    if types.is_string(kind) or types.is_large_string(kind):
        return "texts"
    return "others"


def numbers(column: Any) -> NDArray[np.float64]:
    """The numbers of a column; NaN where one is missing, 1 and 0 for true and false.

    Args:
        column: A PyArrow column of numbers.
    """
    import pyarrow
    from pyarrow import types

    column = plain(column)
    if types.is_boolean(column.type):
        column = column.cast(pyarrow.int8())
    found: NDArray[np.float64] = column.cast(pyarrow.float64(), safe=False).to_numpy()
    return found


def texts(column: Any) -> Any:
    """The texts of a column; an empty one is missing.

    Args:
        column: A PyArrow column of texts.
    """
    import pyarrow
    from pyarrow import compute

    column = plain(column).cast(pyarrow.large_string())
    empty = compute.equal(column, "")
    return compute.if_else(empty, pyarrow.scalar(None, column.type), column)


def plain(column: Any) -> Any:
    """A column whose cells are no references to a dictionary.

    Args:
        column: A PyArrow column.
    """
    from pyarrow import types

    return column.cast(column.type.value_type) if types.is_dictionary(column.type) else column


def is_number(text: str) -> bool:
    """Whether a cell of text is a number, and not one of the texts that say it is missing.

    >>> is_number("1.5"), is_number("12O"), is_number("nan")
    (True, False, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return not is_missing(text)


def is_missing(text: str) -> bool:
    """Whether a cell of text says that a number is missing, as ``NA`` does."""
    from pyarrow import csv

    return text in csv.ConvertOptions().null_values


def refuse_infinite(where: str, name: str, found: NDArray[np.float64]) -> None:
    """Refuse a column of which a number is not finite as float32; NaN is missing, and passes.

    Args:
        where: The table, for the message.
        name: Of the column.
        found: Its numbers.

    Raises:
        DataError: With the first row.
    """
    with np.errstate(over="ignore"):
        wrong = np.isinf(found.astype(np.float32))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{where}: column '{name}' has {found[row]:g} in row {row + 1}: numbers must be finite "
            "as float32"
        )


def refuse_missing(where: str, name: str, missing: NDArray[np.bool_], way: str) -> None:
    """Refuse a column of which a cell is missing.

    Args:
        where: The table, for the message.
        name: Of the column.
        missing: By row.
        way: What to do about it.

    Raises:
        DataError: With the first row.
    """
    if missing.any():
        row = int(np.flatnonzero(missing)[0]) + 1
        rest = int(missing.sum()) - 1
        more = f" and {rest} more" if rest else ""
        raise DataError(f"{where}: column '{name}' is empty in row {row}{more}: {way}")


def place_of(where: str, part: str, tables: Mapping[str, Any]) -> str:
    """The table of a part, for messages: of several with the name of the part."""
    return f"{where}: {part}" if len(tables) > 1 else where


def listed(names: list[str]) -> str:
    """Names of columns in a message, of many the first.

    >>> listed(["a", "b"])
    'a, b'
    """
    return ", ".join([*names[:_MOST_SHOWN], "…"] if len(names) > _MOST_SHOWN else names)
