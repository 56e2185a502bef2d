"""The inputs in a table: columns of numbers as they are, columns of text as categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    refuse_infinite,
    refuse_missing,
    texts,
)
from dimat.errors import DataError

_MOST_CATEGORIES = 100
_FILL = "fill it in, give the number that stands in for it in data.fill, or remove the row"

Array = NDArray[np.float32]


def input_columns(
    tables: Mapping[str, Any], names: Sequence[str], listed_categories: Iterable[str], where: str
) -> tuple[str, ...]:
    """What columns are as inputs: ``age`` of numbers, ``color=blue|red`` of text.

    Args:
        tables: PyArrow tables by their part, with the same columns.
        names: The columns that are inputs.
        listed_categories: The categories of some columns, in the same form.
        where: The source, for messages.

    Raises:
        DataError: If a column is neither, or has too many texts for categories.
    """
    given = dict(_parsed(own, where) for own in listed_categories)
    for name in given:
        if name not in names:
            raise DataError(
                f"{where}: data.categories has '{name}', which is no input (inputs: "
                f"{listed(list(names))})"
            )
    found = []
    for name in names:
        if "=" in name:
            raise DataError(f"{where}: column '{name}' has a '=' in its name: rename it")
        own = [table.column(name) for table in tables.values()]
        kinds = {meaning(column) for column in own}
        if "others" in kinds:
            other = next(column.type for column in own if meaning(column) == "others")
            raise DataError(
                f"{where}: column '{name}' is {other}: inputs are numbers, true and "
                f"false, or text; leave it out with data.leave_out {name}"
            )
        if kinds == {"numbers"} and name not in given:
            found.append(name)
        else:
            categories = given.get(name) or _found(tables, name, where)
            found.append(f"{name}={'|'.join(categories)}")
    return tuple(found)


def _parsed(entry: str, where: str) -> tuple[str, tuple[str, ...]]:
    name, _, rest = entry.partition("=")
    categories = tuple(rest.split("|"))
    if not name or not all(categories) or len({*categories}) < len(categories):
        raise DataError(
            f"{where}: data.categories has '{entry}': must be COLUMN=A|B|C, each category once"
        )
    return name, categories


def _found(tables: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """The different texts of a column, sorted."""
    columns = {
        place_of(where, part, tables): _as_texts(own.column(name)) for part, own in tables.items()
    }
    counts = _counts(columns.values())
    found = sorted(counts)
    wrong = [text for text in found if not (is_number(text) or is_missing(text))]
    out = f"leave it out with data.leave_out {name}"
    if wrong and _most_are_numbers(counts, wrong):
        more = len(wrong) - 1
        raise DataError(
            f"{_first(columns, name, wrong, 'has numbers, but')}"
            f"{f' ({more} more such texts)' if more else ''}: mend it, {out}, or list its "
            "categories in data.categories"
        )
    if len(found) > _MOST_CATEGORIES:
        way = f"{out}, or list them in data.categories; what is to be read as text is data.text"
        if all(is_number(text.replace(",", ".")) or is_missing(text) for text in found):
            way = "they are numbers, which are written without quotes and with a decimal point"
        raise DataError(
            f"{_first(columns, name, wrong or found, 'has texts, as')}, and {len(found):,} "
            f"different ones, too many for categories (at most {_MOST_CATEGORIES}): {way}"
        )
    if any("|" in text for text in found):
        text = next(text for text in found if "|" in text)
        raise DataError(
            f"{where}: column '{name}' has the category '{text}', with a '|', which divides "
            f"categories in data.categories: replace it, or {out}"
        )
    return tuple(found)


def _counts(columns: Iterable[Any]) -> Counter[str]:
    """How often each text is in some columns of texts."""
    from pyarrow import compute

    found: Counter[str] = Counter()
    for own in columns:
        for each in compute.value_counts(own.drop_null()).to_pylist():
            found[each["values"]] += each["counts"]
    return found


def _most_are_numbers(counts: Mapping[str, int], wrong: Sequence[str]) -> bool:
    """Whether numbers are more than other texts, by how many there are or by their cells."""
    right = [text for text in counts if is_number(text)]
    cells = [sum(counts[text] for text in own) for own in (right, wrong)]
    return len(right) > len(wrong) or cells[0] > cells[1]


def _first(columns: Mapping[str, Any], name: str, those: Sequence[str], what: str) -> str:
    """A message that begins with the first cell that has one of some texts, of one at least."""
    import pyarrow
    from pyarrow import compute

    for where, own in columns.items():
        there = compute.is_in(own, value_set=pyarrow.array(those, own.type)).to_numpy()
        if there.any():
            row = int(there.argmax())
            return f"{where}: column '{name}' {what} '{own[row]}' in row {row + 1}"
    raise AssertionError("no cell has any of the texts")


def _as_texts(column: Any) -> Any:
    """The cells of a column as texts, whatever they are."""
    import pyarrow

    if meaning(column) == "texts":
        return texts(column)
    return column.cast(pyarrow.large_string())


def inputs(table: Any, columns: Sequence[str], fill: float | None, where: str) -> Array:
    """The inputs of a table, (rows, numbers).

    Args:
        table: A PyArrow table.
        columns: As :func:`input_columns` gives them.
        fill: The number that stands in place of a missing one, and 0 stands in place of a missing
            category; None: they are refused.
        where: The table, for messages.

    Raises:
        DataError: If a cell is missing, no finite number, or none of the categories, with its row.
    """
    return np.concatenate([_input(table, own, fill, where) for own in columns], 1)


def _input(table: Any, column: str, fill: float | None, where: str) -> Array:
    """The numbers of one column, (rows, 1), or (rows, categories) of 0 and 1."""
    name, equals, rest = column.partition("=")
    cells = table.column(name)
    if not equals:
        return _numbers(numbers(cells), name, fill, where)
    categories = rest.split("|")
    place = _places(cells, name, categories, where)
    if fill is None:
        refuse_missing(where, name, place < 0, _FILL)
    ones: Array = (place[:, None] == np.arange(len(categories))).astype(np.float32)
    return ones


def _numbers(found: NDArray[np.float64], name: str, fill: float | None, where: str) -> Array:
    if fill is None:
        refuse_missing(where, name, np.isnan(found), _FILL)
    else:
        found = np.where(np.isnan(found), fill, found)
    refuse_infinite(where, name, found)
    return found.astype(np.float32)[:, None]


def _places(cells: Any, name: str, categories: Sequence[str], where: str) -> NDArray[np.int64]:
    """The places of a column's cells among its categories; -1 where a cell is missing."""
    import pyarrow
    from pyarrow import compute

    said = _as_texts(cells)
    known = pyarrow.array(categories, said.type)
    place = compute.index_in(said, value_set=known)
    unknown = compute.and_(said.is_valid(), place.is_null()).to_numpy()
    if unknown.any():
        row = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f"{where}: column '{name}' has '{said[row]}' in row {row + 1}, which is none of its "
            f"categories ({listed(list(categories))}): list all in data.categories, as "
            f"{name}={'|'.join([*categories[:2], '…'])}"
        )
    found: NDArray[np.int64] = place.fill_null(-1).to_numpy().astype(np.int64)
    return found
