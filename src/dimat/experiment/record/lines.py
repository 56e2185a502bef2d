"""The files of a run folder that grow line by line, and the digests that their lines are under.

A line is one JSON object. Digests go into every checkpoint and into the summary, so that a line
that changed behind the run's back is refused by whoever reads it next; they grow with the lines, so
that no round hashes what the rounds before it wrote.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimat.errors import RecordError, StructureError, writing
from dimat.experiment.record.checkpoint import flush
from dimat.files import read_regular

LINES = ("metrics.jsonl", "diagnostics.jsonl", "incidents.jsonl")
Line = dict[str, Any]


@dataclass(frozen=True)
class LineFiles:
    """The files of lines in one folder.

    Args:
        path: The folder, which exists.
    """

    path: Path
    _hashes: dict[str, hashlib._Hash] = field(  # of what this process has read or written
        init=False, default_factory=dict, repr=False, compare=False
    )

    def append(self, line: Mapping[str, object], name: str = "metrics") -> Line:
        """Add one line to ``metrics.jsonl``, or another; a number that is not finite becomes null.

        Returns:
            The line as it will be read.

        Raises:
            WriteError: If it cannot be written.
        """
        file = f"{name}.jsonl"
        # What UTF-8 has no bytes for comes from peers; JSON writes it as Python does.
        content = (to_json(line) + "\n").encode("utf-8", "backslashreplace")
        known = self._hash(file)
        with writing(self.path / file), (self.path / file).open("ab") as opened:
            opened.write(content)
        known.update(content)
        read: Line = json.loads(content)
        return read

    def lines(self, name: str = "metrics") -> list[Line]:
        """All metrics, or another file of lines.

        Raises:
            RecordError: If a line is broken.
        """
        path = self.path / f"{name}.jsonl"
        return read_lines(path) if path.exists() else []

    def flush(self) -> None:
        """See that all lines are on disk, before a checkpoint says that they are."""
        for name in self.sizes():
            with writing(self.path / name):
                flush(self.path / name)

    def sizes(self) -> dict[str, int]:
        """How long the files are, in bytes."""
        return {n: (self.path / n).stat().st_size for n in LINES if (self.path / n).exists()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of the files' contents."""
        return {name: self._hash(name).hexdigest() for name in self.sizes()}

    def moment(self) -> dict[str, dict[str, Any]]:
        """What a checkpoint keeps of the lines that there are: sizes and digests."""
        return {"sizes": self.sizes(), "lines_sha256": self.digests()}

    def check_lines(self, moment: Mapping[str, Any]) -> None:
        """Refuse lines that are not those of an earlier moment.

        Args:
            moment: What :meth:`moment` was then; that of an older version has no digests, and its
                lines are taken as they are.

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

    def rewind(self, sizes: Mapping[str, int]) -> list[Line]:
        """Take back all lines after a moment, and return the metrics until then.

        Args:
            sizes: What :meth:`sizes` was then; none: take back all.

        Raises:
            RecordError: If a line until then is broken.
            WriteError: If lines cannot be taken back.
        """
        self._hashes.clear()
        for name, now in self.sizes().items():
            if now > sizes.get(name, 0):
                with writing(self.path / name):
                    os.truncate(self.path / name, sizes.get(name, 0))
        return self.lines()

    def _hash(self, file: str) -> hashlib._Hash:
        """The digest of a file as it is, to go on with."""
        if file not in self._hashes:
            path = self.path / file
            self._hashes[file] = hashlib.sha256(_content(path) if path.exists() else b"")
        return self._hashes[file]


def check_digest(path: Path, content: bytes, expected: str) -> None:
    """Refuse lines that are not those that were written.

    Args:
        path: Of their file, for the message.
        content: The lines.
        expected: SHA-256 of what was written.

    Raises:
        RecordError: With the number of the line, if it is broken.
    """
    if hashlib.sha256(content).hexdigest() == expected:
        return
    lines = parse_lines(path, content)
    raise RecordError(
        f"{path}, lines 1 to {len(lines)}: one of them was changed after it was written; put the "
        "file back as it was, or run again in another folder"
    )


def check_finished(folder: Path, summary: Mapping[str, object]) -> None:
    """Refuse lines that are not those that the summary of a finished run is of.

    Args:
        folder: The run folder.
        summary: What its ``summary.json`` holds; that of an older version has no digests, and its
            lines are taken as they are.

    Raises:
        RecordError: Naming the file, and the line if it is broken.
    """
    for name in LINES:
        expected = summary.get(digest_name(name))
        if isinstance(expected, str):
            check_digest(folder / name, _content(folder / name), expected)


def digest_name(file: str) -> str:
    """What a summary calls the digest of a file of lines.

    >>> digest_name("metrics.jsonl")
    'metrics_sha256'
    """
    return f"{file.removesuffix('.jsonl')}_sha256"


def read_lines(path: Path) -> list[Line]:
    """All lines of a file.

    Raises:
        RecordError: If the file cannot be read, or a line of it is broken.
    """
    return parse_lines(path, _content(path))


def parse_lines(path: Path, content: bytes) -> list[Line]:
    """The objects of a file with one a line.

    Args:
        path: Of the file, for the message.
        content: What it holds.

    Raises:
        RecordError: If a line is not one JSON object in UTF-8; names file and line.
    """
    found: list[Line] = []
    for number, text in enumerate(content.removesuffix(b"\n").split(b"\n"), 1):
        if not content:
            break
        try:
            line = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise RecordError(f"'{path}', line {number} is broken: {error}") from error
        if not isinstance(line, dict):
            raise RecordError(f"'{path}', line {number} is broken: not a JSON object")
        found.append(line)
    return found


def to_json(value: Mapping[str, object], indent: int | None = None) -> str:
    """JSON with null for every number that is not finite."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent, ensure_ascii=False)


def _finite(value: object) -> object:
    """``value`` with null for every number that is not finite, which JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise RecordError(f"'{path}' cannot be read: {error.strerror}") from error
