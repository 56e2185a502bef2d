"""Files of others: regular ones only, no more memory than they can mean; and folders of ours."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from dimat.errors import ConfigError, DimatError

VARIABLE = "DIMAT_MAX_BYTES"
_FREE = 1 << 30  # bytes that any file may grow to
_GROWTH = 50  # times its size on disk; pictures grow 20-fold, zip bombs 1,000-fold
MOST_HEADER = 1 << 24  # bytes of a safetensors header: 100,000 entries have 15 MB


def open_regular(path: Path) -> BufferedReader:
    """A file opened to be read, if it is a regular one: of a named pipe the opening might not end.

    Raises:
        OSError: If it cannot be opened, or is a pipe, a socket, a device or a folder.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path) -> bytes:
    """The content of a regular file of at most 1 GiB, or ``DIMAT_MAX_BYTES``.

    Raises:
        OSError: If it cannot be read, or is longer.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max(_FREE, _allowed()):
            reason = f"{size:,} bytes are too many, unless {VARIABLE} allows them"
            raise OSError(errno.EFBIG, reason, str(path))
        return file.read()


def read_json(path: Path, most: int, kind: type[DimatError]) -> Any:
    """The content of a regular file of JSON.

    Args:
        path: The file.
        most: Bytes of it at most.
        kind: The error.

    Raises:
        kind: If it cannot be read, is longer, or no JSON.
    """
    try:
        with open_regular(path) as file:
            text = file.read(most + 1)
        found = json.loads(text) if len(text) <= most else None
    except (OSError, ValueError, RecursionError) as error:
        raise kind(f"{path} cannot be read as JSON: {error}") from error
    if len(text) > most:
        raise kind(f"{path}: at most {most:,} bytes of it are read")
    return found


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write in, which becomes ``out`` at the end, and is removed if that fails.

    Args:
        out: The folder to make; it must not be there, or be empty.

    Raises:
        OSError: If it cannot be written; nothing of it is left then.
    """
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        yield partial
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def file_digest(path: Path) -> str:
    """The SHA-256 of a regular file, which may be too long to be read at once.

    Raises:
        OSError: If it cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_bytes(what: str, needed: int, on_disk: int, kind: type[DimatError]) -> None:
    """Refuse what would take far more memory than the file has bytes, before it is allocated.

    A file may grow to 50 times its size, and any file to 1 GiB. What grows more is a lie or a
    bomb, or else its user says so in the environment variable ``DIMAT_MAX_BYTES``.

    Args:
        what: What is read, for the message.
        needed: Bytes that it takes in memory, as it says itself.
        on_disk: Bytes of the file.
        kind: The error.

    Raises:
        kind: If it is too much.
        ConfigError: If ``DIMAT_MAX_BYTES`` is no whole number.

    >>> check_bytes("train_x", 2**43, 10_000, DimatError)
    Traceback (most recent call last):
        ...
    dimat.errors.DimatError: train_x takes 8,796,093,022,208 bytes in memory, and its file has
    10,000: more than 1,073,741,824 and 50 times the file are refused; if it is right, set
    DIMAT_MAX_BYTES=8796093022208 in the environment
    """
    most = max(_FREE, _GROWTH * on_disk, _allowed())
    if needed > most:
        raise kind(
            f"{what} takes {needed:,} bytes in memory, and its file has {on_disk:,}: more than "
            f"{_FREE:,} and {_GROWTH} times the file are refused; if it is right, set "
            f"{VARIABLE}={needed} in the environment"
        )


def check_archive(path: Path, kind: type[DimatError]) -> None:
    """Refuse a zip archive that unpacks to too much; of other files nothing is said.

    Raises:
        kind: If it does.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        needed = sum(own.file_size for own in archive.infolist())
    check_bytes(f"{path}, unpacked,", needed, path.stat().st_size, kind)


def check_header(path: Path, kind: type[DimatError]) -> None:
    """Refuse a safetensors file whose header is longer than the file, or than any is.

    Raises:
        kind: If so.
        OSError: If the file cannot be read.
    """
    with open_regular(path) as file:
        said = int.from_bytes(file.read(8), "little")
    size = path.stat().st_size
    if said > min(MOST_HEADER, size - 8):
        raise kind(
            f"{path} cannot be read as safetensors: its header is said to have {said:,} bytes, and "
            f"the file has {size:,}; at most {MOST_HEADER:,} are read"
        )


def _allowed() -> int:
    given = os.environ.get(VARIABLE, "0")
    if not (given.isascii() and given.isdecimal()):
        raise ConfigError(f"{VARIABLE} is '{given[:100]}': must be a whole number of bytes")
    return int(given)
