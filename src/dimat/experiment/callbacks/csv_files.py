"""``--log csv``: metrics and diagnostics as tables, ``metrics.csv`` and ``diagnostics.csv``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dimat.errors import writing
from dimat.experiment.callbacks.callback import leaves
from dimat.files import read_regular

if TYPE_CHECKING:
    from dimat.experiment.config.config import RunConfig

_FILES = ("metrics", "diagnostics")


class CsvFiles:
    """A callback that writes a row for each line, under a header with all names.

    ``metrics.jsonl`` and ``diagnostics.jsonl`` are what counts: a table is made of them anew when
    a run begins or is resumed, and when a line has a value of a new name.
    """

    def started(self, method: str, config: RunConfig, folder: Path, after_round: int) -> None:
        """Make the tables of the lines that the folder has."""
        self._folder, self._names = folder, dict[str, list[str]]()
        for file in _FILES:
            self._make(file)

    def measured(self, method: str, line: Mapping[str, object]) -> None:
        """Add a row.

        Raises:
            WriteError: If the table cannot be written.
        """
        file = "metrics" if "phase" in line else "diagnostics"
        values, names = leaves(line), self._names[file]
        if not set(values) <= set(names):
            self._make(file)
            return
        path = self._folder / f"{file}.csv"
        with writing(path), path.open("ab") as table:
            table.write(_text([_row(values, names)]))

    def finished(self, method: str, summary: Mapping[str, object]) -> None:
        """The tables are complete."""

    def _make(self, file: str) -> None:
        """Write a table of all lines, whole or not at all; none if there are no lines."""
        path, source = self._folder / f"{file}.csv", self._folder / f"{file}.jsonl"
        lines = read_regular(source).splitlines() if source.exists() else []
        found = [leaves(json.loads(line)) for line in lines]
        names = self._names[file] = list(dict.fromkeys(name for own in found for name in own))
        partial = path.with_name(f"{path.name}.partial")
        with writing(path):
            if not found:
                path.unlink(missing_ok=True)
                return
            partial.write_bytes(_text([names, *(_row(own, names) for own in found)]))
            partial.replace(path)


def _row(values: Mapping[str, object], names: Iterable[str]) -> list[object]:
    """The cells of a row; one is empty where there is no number."""
    cells = (values.get(name) for name in names)
    return [json.dumps(own) if isinstance(own, list) else own for own in cells]


def _text(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as UTF-8; a number has all digits that it needs.

    >>> _text([["round", "gap"], [1, 0.1], [2, None]])
    b'round,gap\\n1,0.1\\n2,\\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8")
