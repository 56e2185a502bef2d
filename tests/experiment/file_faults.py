"""Faults at the n-th change of a file: the process dies there, or the disk takes nothing more."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MAKES = ("open", "os.mkdir")
_CHANGES = (*_MAKES, "os.rename", "os.remove", "os.rmdir", "os.truncate")


class Killed(BaseException):
    """What no handler of errors catches."""


def killed() -> BaseException:
    return Killed()


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only() -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS))


@dataclass
class Disk:
    """What happens to the files under a folder.

    Args:
        under: The folder.
        lasts: How many changes it takes; every one after them fails.
        error: How.
        changes: How many were asked for.
    """

    under: Path
    lasts: int
    error: Callable[[], BaseException]
    changes: int = 0

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _CHANGES or not self._here(event, args):
            return
        self.changes += 1
        room_is_made = self.error is full and event not in _MAKES
        if self.changes > self.lasts and not room_is_made:
            raise self.error()

    def _here(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "open" and not args[2] & _WRITES:
            return False
        if isinstance(args[0], int):  # a file that is open already
            return False
        if event in ("os.remove", "os.rmdir") and args[1] != -1:
            return True  # within shutil.rmtree, by names within its folder
        return Path(os.fsdecode(args[0])).absolute().is_relative_to(self.under)


_disks: list[Disk] = []


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _disks:
        _disks[-1].hear(event, args)


sys.addaudithook(_hear)  # for good: it cannot be taken back


@contextmanager
def disk(
    under: Path, lasts: int = sys.maxsize, error: Callable[[], BaseException] = killed
) -> Iterator[Disk]:
    """A disk that takes so many changes under a folder, and none after them."""
    _disks.append(Disk(under, lasts, error))
    try:
        yield _disks[-1]
    finally:
        _disks.pop()


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The system writes the first bytes of what is longer, and then an error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
