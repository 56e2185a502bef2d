"""Events of an agent as lines of JSON, for programs that watch it."""

from __future__ import annotations

import contextlib
import json
import select
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from dimat.errors import ConfigError
from dimat.experiment.record.lines import to_json

MOST_BYTES = 1 << 24
_ATOMIC_BYTES = 4096  # a pipe that has any room has room for so many (PIPE_BUF)


class EventLog:
    """A line for each event, on disk before the next: time in UTC, the event, and its facts.

    A file ends at 16 MiB with a line that says so. What cannot be written any more is left away:
    it must not end a run. Nor must whoever reads standard output hold it up: while the reader takes
    nothing, events are left away, and then a line ``lost`` says how many.

    Args:
        target: Path of the file, which lines are added to; ``-``: standard output.

    Raises:
        ConfigError: If the file cannot be opened.
    """

    def __init__(self, target: str) -> None:
        self._lock, self._left = threading.Lock(), float("inf")
        self._lost = 0
        self._file: TextIO | None = sys.stdout
        self._own = target != "-"
        if self._own:
            try:
                path = Path(target)
                self._file = path.open("a", encoding="utf-8")
                self._left = MOST_BYTES - path.stat().st_size
            except OSError as error:
                raise ConfigError(
                    f"setting 'events': {target} cannot be written: {error.strerror}"
                ) from error

    def __call__(self, event: str, **facts: Any) -> None:
        """Write the line of an event.

        Args:
            event: Its kind.
            facts: What there is to say of it, as JSON.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = to_json({"time": now, "event": event, **facts})
        with self._lock:
            if self._file is None:
                return
            if not self._own:
                self._print(line, now)
                return
            if len(line) >= self._left:
                line = json.dumps({"time": now, "event": "full"})
            self._left -= len(line) + 1
            self._write(line)
            if self._left <= 0 or '"event": "full"' in line:
                self._close()

    def _print(self, line: str, now: str) -> None:
        """Write a line to standard output, if that takes it at once."""
        if self._lost and _takes(self._file):
            lost, self._lost = self._lost, 0
            self._write(json.dumps({"time": now, "event": "lost", "times": lost}))
        if len(line.encode()) < _ATOMIC_BYTES and _takes(self._file):
            self._write(line)
        else:
            self._lost += 1

    def _write(self, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except (OSError, ValueError):
            self._close()

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None and self._own:
            with contextlib.suppress(OSError):  # what was not written yet
                file.close()


def _takes(file: TextIO | None) -> bool:
    """Whether a file takes a line without waiting for whoever reads it."""
    try:
        return file is not None and bool(select.select([], [file], [], 0)[1])
    except (OSError, ValueError):  # nothing that can be waited for, such as a notebook's output
        return True
