"""A lock on a folder: let go when the process ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dimat.errors import RecordError


@contextmanager
def alone(folder: Path, *, otherwise: str | None = None) -> Iterator[None]:
    """Keep other processes out of a folder that would be alone in it too.

    Args:
        folder: Made if it is not there; a file ``.lock`` is left in it.
        otherwise: What to say if another process is in it; None: wait until it has left.

    Raises:
        RecordError: If another process is in it and is not waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0 if otherwise else -1)
    except Timeout:
        raise RecordError(f"{otherwise} in '{folder}': let it end") from None
    try:
        yield
    finally:
        lock.release()
