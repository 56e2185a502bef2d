"""The files of a run folder that grow line by line, and the digests of their contents.

A line is one JSON object. Digests go into every checkpoint and into the summary, so that a reader
refuses a line that was changed after it was written. They are updated with each line, so that no
round hashes the lines of earlier rounds again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from dimat.errors import RecordError, StructureError, writing
from dimat.files import flush, open_regular, read_regular

LINES = ("metrics.jsonl", "diagnostics.jsonl", "classes.jsonl", "incidents.jsonl")
Line = dict[str, Any]
_LONGEST = 1 << 26  # bytes that are read as one line: of what is no file of lines no more


@dataclass(frozen=True)
class LineFiles:
    """The files of lines in one folder.

    Args:
        path: The folder, which exists.
    """

    path: Path
    _hashes: dict[str, hashlib._Hash] = field(  # of the contents that this process knows, by file
        init=False, default_factory=dict, repr=False, compare=False
    )

    def append(self, line: Mapping[str, object], name: str = "metrics") -> Line:
        """Append one line to ``NAME.jsonl``; a number that is not finite becomes null.

        Args:
            line: The line's values by name.
            name: metrics, diagnostics, classes or incidents.

        Returns:
            The line as it will be read.

        Raises:
            WriteError: If the line cannot be written.
        """
        file = f"{name}.jsonl"
        # Peers may send text that UTF-8 cannot encode: it is escaped.
        content = (to_json(line) + "\n").encode("utf-8", "backslashreplace")
        known = self._hash(file)
        with writing(self.path / file), (self.path / file).open("ab") as opened:
            opened.write(content)
        known.update(content)
        read: Line = json.loads(content)
        return read

    def lines(self, name: str = "metrics") -> Iterator[Line]:
        """All lines of ``NAME.jsonl``, one after another; none if there is no such file.

        Those of many rounds together would take ten times the memory of the file.

        Args:
            name: metrics, diagnostics, classes or incidents.

        Raises:
            RecordError: If a line is broken.
        """
        path = self.path / f"{name}.jsonl"
        if path.exists():
            yield from read_lines(path)

    def flush(self) -> None:
        """Flush all lines to disk, before a checkpoint relies on them."""
        for name in self.sizes():
            with writing(self.path / name):
                flush(self.path / name)

    def sizes(self) -> dict[str, int]:
        """Sizes of the existing files in bytes, by file name."""
        return {n: (self.path / n).stat().st_size for n in LINES if (self.path / n).exists()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of the existing files' contents, by file name."""
        return {name: self._hash(name).hexdigest() for name in self.sizes()}

    def moment(self) -> dict[str, dict[str, Any]]:
        """Sizes and digests of the present lines, as JSON for a checkpoint."""
        return {"sizes": self.sizes(), "lines_sha256": self.digests()}

    def check_lines(self, moment: Mapping[str, Any]) -> None:
        """Refuse lines that were removed or changed since an earlier moment.

        Args:
            moment: The value of :meth:`moment` then; without digests, as in older versions, lines
                are not checked for changes.

        Raises:
            StructureError: If lines are missing; names the file.
            RecordError: If lines were changed; names the file, and the line if it is broken.
        """
        now = self.sizes()
        for name, size in moment["sizes"].items():
            if now.get(name, 0) < size:
                raise StructureError(
                    f"{self.path / name} is {now.get(name, 0)} bytes long, and was {size} when a "
                    "checkpoint was written: lines are missing"
                )
        for name, expected in moment.get("lines_sha256", {}).items():
            content = _content(self.path / name)[: moment["sizes"][name]]
            check_digest(self.path / name, content, expected)

    def rewind(self, sizes: Mapping[str, int]) -> None:
        """Remove all lines after an earlier moment.

        Args:
            sizes: The value of :meth:`sizes` then; empty to remove all lines.

        Raises:
            RecordError: If one of the remaining lines of metrics is broken.
            WriteError: If lines cannot be removed.
        """
        self._hashes.clear()
        for name, now in self.sizes().items():
            if now > sizes.get(name, 0):
                with writing(self.path / name):
                    os.truncate(self.path / name, sizes.get(name, 0))
        for _ in self.lines():  # checkpoints of old versions have no digest of the lines
            pass

    def _hash(self, file: str) -> hashlib._Hash:
        """The running digest of a file's content, which later lines are added to."""
        if file not in self._hashes:
            path = self.path / file
            self._hashes[file] = hashlib.sha256(_content(path) if path.exists() else b"")
        return self._hashes[file]


def check_digest(path: Path, content: bytes, expected: str) -> None:
    """Refuse lines that were changed after they were written.

    Args:
        path: Path of their file, for the message.
        content: The lines as bytes.
        expected: SHA-256 of the lines as they were written.

    Raises:
        RecordError: If the digests differ; names the line, if one is broken.
    """
    if hashlib.sha256(content).hexdigest() == expected:
        return
    count = sum(1 for _ in parse_lines(path, BytesIO(content)))
    raise RecordError(
        f"{path}, lines 1 to {count}: one of them was changed after it was written; put the "
        "file back as it was, or run again in another folder"
    )


def check_finished(folder: Path, summary: Mapping[str, object]) -> None:
    """Refuse lines of a finished run that differ from those its summary was made of.

    Args:
        folder: The run folder.
        summary: The content of its ``summary.json``; without digests, as in older versions, lines
            are not checked.

    Raises:
        RecordError: If lines were changed; names the file, and the line if one is broken.
    """
    for name in LINES:
        expected = summary.get(digest_name(name))
        if isinstance(expected, str):
            check_digest(folder / name, _content(folder / name), expected)


def digest_name(file: str) -> str:
    """The key of a file's digest in a summary.

    >>> digest_name("metrics.jsonl")
    'metrics_sha256'
    """
    return f"{file.removesuffix('.jsonl')}_sha256"


def read_lines(path: Path) -> Iterator[Line]:
    """All lines of a file, one after another.

    Args:
        path: The file, with one JSON object a line.

    Raises:
        RecordError: If the file cannot be read, or a line of it is broken.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        yield from parse_lines(path, iter(lambda: file.readline(_LONGEST), b""))


def parse_lines(path: Path, content: Iterable[bytes]) -> Iterator[Line]:
    """The JSON objects of a file that has one a line.

    Args:
        path: Path of the file, for the message.
        content: Lines of the file.

    Raises:
        RecordError: If a line is not one JSON object in UTF-8; names file and line.
    """
    for number, text in enumerate(content, 1):
        try:
            line = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise RecordError(f"'{path}', line {number} is broken: {error}") from error
        if not isinstance(line, dict):
            raise RecordError(f"'{path}', line {number} is broken: not a JSON object")
        yield line


def to_json(value: Mapping[str, object], indent: int | None = None) -> str:
    """JSON text with null for every number that is not finite."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent, ensure_ascii=False)


def _finite(value: object) -> object:
    """``value`` with None for every number that is not finite, which JSON cannot express."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RecordError:
    return RecordError(f"'{path}' cannot be read: {error.strerror}")
