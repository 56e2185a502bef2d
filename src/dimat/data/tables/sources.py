"""The sources ``csv``, ``jsonl`` and ``parquet``: one file with one table."""

from __future__ import annotations

from dimat.data.dataset import Dataset, Tell, quiet
from dimat.data.options import DEFAULTS, SourceOptions
from dimat.data.tables.dataset import of_tables
from dimat.data.tables.read import read_csv, read_jsonl, read_parquet


def csv(path: str, tell: Tell = quiet, options: SourceOptions = DEFAULTS) -> Dataset:
    """The rows of a CSV file whose first line names the columns.

    Args:
        path: The file.
        tell: Not told anything: a table is read at once.
        options: Which columns are what, and the task.

    Raises:
        DataError: If it cannot be read, or its columns cannot be used, with column, row and rule.
    """
    where = f"csv:{path}"
    return of_tables("csv", {"train": read_csv(path, where)}, options, where)


def jsonl(path: str, tell: Tell = quiet, options: SourceOptions = DEFAULTS) -> Dataset:
    """The lines of a file, each a JSON object whose keys are the columns.

    Args:
        path: The file.
        tell: Not told anything.
        options: As of a CSV file.

    Raises:
        DataError: As of a CSV file.
    """
    where = f"jsonl:{path}"
    return of_tables("jsonl", {"train": read_jsonl(path, where)}, options, where)


def parquet(path: str, tell: Tell = quiet, options: SourceOptions = DEFAULTS) -> Dataset:
    """The rows of a Parquet file.

    Args:
        path: The file.
        tell: Not told anything.
        options: As of a CSV file.

    Raises:
        DataError: As of a CSV file.
    """
    where = f"parquet:{path}"
    return of_tables("parquet", {"train": read_parquet(path, where)}, options, where)
