"""Locks on folders, released when the process ends, however it ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dimat.errors import RecordError, writing

LOCK = ".lock"
HOLDER = ".lock-holder"  # not in the lock file: older versions of filelock empty that


@contextmanager
def alone(folder: Path, *, otherwise: str | None = None) -> Iterator[None]:
    """Hold the lock of a folder, which only one process can hold at a time.

    Args:
        folder: The folder; made if it is missing. A file ``.lock`` is left in it.
        otherwise: Beginning of the error message if another process holds the lock; None to wait
            for that process.

    Raises:
        RecordError: If another process holds the lock and is not waited for; names the process.
        WriteError: If the lock file cannot be written.
    """
    lock, holder = FileLock(folder / LOCK), folder / HOLDER
    with writing(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0 if otherwise else -1)
        except Timeout:  # an OSError too
            who = _read(holder)
            raise RecordError(f"{otherwise} in '{folder}'{who}: let it end, or stop it") from None
    try:
        with _named(holder) if otherwise else nullcontext():
            yield
    finally:
        lock.release()


@contextmanager
def _named(holder: Path) -> Iterator[None]:
    """Name this process in a file while it holds the lock; only an error message needs it."""
    with suppress(OSError):
        holder.write_text(f"process {os.getpid()} on {platform.node()}", "utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)


def _read(holder: Path) -> str:
    """The process that holds a lock, in brackets; empty if it is not named."""
    with suppress(OSError, UnicodeDecodeError):
        return f" ({holder.read_text('utf-8')})"
    return ""
