"""Locks on folders, let go when the process ends, however it ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dimat.errors import RecordError, writing

LOCK = ".lock"
HOLDER = ".lock-holder"  # a file of its own: older versions of filelock empty the lock's


@contextmanager
def alone(folder: Path, *, otherwise: str | None = None) -> Iterator[None]:
    """Keep other processes out of a folder that would be alone in it too.

    Args:
        folder: Made if it is not there; a file ``.lock`` is left in it.
        otherwise: What to say if another process is in it; None: wait until it has left.

    Raises:
        RecordError: If another process is in it and is not waited for; says which.
        WriteError: If the lock cannot be written.
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
    """Leave word of this process while it is inside; nothing but a message needs it."""
    with suppress(OSError):
        holder.write_text(f"process {os.getpid()} on {platform.node()}", "utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)


def _read(holder: Path) -> str:
    """The process that a lock is held by, in brackets; nothing if it left no word."""
    with suppress(OSError, UnicodeDecodeError):
        return f" ({holder.read_text('utf-8')})"
    return ""
