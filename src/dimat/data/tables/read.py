"""Files with a table, read whole by PyArrow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dimat.errors import DataError, first_line
from dimat.files import check_bytes, open_regular

_DELIMITERS = ",;\t"
_NUMBER_BYTES = 8  # a cell takes, at least
_HEAD_BYTES = 2**20  # the first line is in them, if it is a header
_MOST_BYTES = 2**31 - 1  # of one block, which PyArrow decides the types of columns by


def read_csv(path: str, where: str) -> Any:
    """The table in a CSV file with a header: comma, semicolon or tab, whichever the header has.

    Args:
        path: The file, in UTF-8, with or without a mark of it at the beginning.
        where: The source, for messages.

    Raises:
        DataError: If it cannot be read, is no such table, or a row has more or fewer fields.
    """

    def read(file: Any, size: int) -> Any:
        from pyarrow import csv

        head = file.read(min(size, _HEAD_BYTES)).partition(b"\n")[0].decode("utf-8", "replace")
        file.seek(0)
        delimiter = max(_DELIMITERS, key=head.count)  # the comma where there is none
        table = csv.read_csv(
            file,
            csv.ReadOptions(use_threads=False, block_size=min(size + 1, _MOST_BYTES)),
            csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        )
        binary = [name for name, kind in _columns(table) if kind == "binary"]
        if binary:
            raise DataError(
                f"{where}: column '{binary[0]}' is not UTF-8: convert the file, as "
                "iconv -f latin1 -t utf-8 does"
            )
        return table

    return _read(path, where, "a CSV file", read)


def read_jsonl(path: str, where: str) -> Any:
    """The table in a file with one JSON object a line.

    Args:
        path: The file.
        where: The source, for messages.

    Raises:
        DataError: If it cannot be read, or a line is no object.
    """

    def read(file: Any, size: int) -> Any:
        from pyarrow import json as arrow_json

        options = arrow_json.ReadOptions(use_threads=False, block_size=min(size + 1, _MOST_BYTES))
        try:
            return arrow_json.read_json(file, options)
        except ValueError as error:
            file.seek(0)
            _check_kinds(str(error), file, where)
            raise

    return _read(path, where, "a file of JSON objects, one a line", read)


def _check_kinds(error: str, file: Any, where: str) -> None:
    """Refuse a column that is of two kinds, if that is what PyArrow says, which counts from 0."""
    found = re.search(r"Column\(/(.+)\) changed from (\w+) to (\w+) in row (\d+)", error)
    if found is None:
        return
    name, before, now, row = found[1], found[2], found[3], int(found[4])
    lines = [line for line in file.read().splitlines() if line.strip()]
    try:
        cell = f", {json.dumps(json.loads(lines[row])[name], ensure_ascii=False)}"
    except (ValueError, LookupError, TypeError):  # of an object in an object, say
        cell = ""
    raise DataError(
        f"{where}: column '{name}' is {before} at first, and {now} in row {row + 1}{cell}: mend "
        "it; what is missing is null"
    )


def _in_rows(error: BaseException) -> str:
    """A message of PyArrow, whose rows are counted from 1, without the header."""
    text = re.sub(r"Row #(\d+)", lambda own: f"row {int(own[1]) - 1}", first_line(error), count=1)
    return re.sub(r"in row (\d+)$", lambda own: f"in row {int(own[1]) + 1}", text)


def read_parquet(path: str, where: str) -> Any:
    """The table in one Parquet file.

    Args:
        path: The file.
        where: The source, for messages.

    Raises:
        DataError: If it cannot be read, or grows too much when it is.
    """

    def read(file: Any, size: int) -> Any:
        from pyarrow import parquet

        archive = parquet.ParquetFile(file)
        meta = archive.metadata
        packed = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        cells = meta.num_rows * meta.num_columns * _NUMBER_BYTES
        check_bytes(where, max(packed, cells), size, DataError)
        return archive.read(use_threads=False)

    return _read(path, where, "a Parquet file", read)


def _read(path: str, where: str, what: str, read: Callable[[Any, int], Any]) -> Any:
    """A table by a function of an open file and its size; errors in our words."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(f'{where}: needs pip install "dimat[tables]" ({error})') from error
    try:
        with open_regular(Path(path)) as file:
            # As bytes: threads of PyArrow that hold a file of Python's when it ends abort it.
            content = file.read()
            table = read(pyarrow.BufferReader(content), len(content))
            table.validate(full=True)  # such as text that is not UTF-8
            return table
    except DataError:
        raise
    except OSError as error:
        if error.strerror is None:  # of PyArrow
            raise DataError(f"{where}: not {what} ({first_line(error)})") from error
        raise DataError(f"{where}: cannot be read ({error.strerror})") from error
    except (pyarrow.ArrowException, ValueError, LookupError, OverflowError, TypeError) as error:
        # all that it raises for a Parquet file with one byte changed
        raise DataError(f"{where}: not {what} ({_in_rows(error)})") from error


def _columns(table: Any) -> list[tuple[str, str]]:
    return [(own.name, str(own.type)) for own in table.schema]
