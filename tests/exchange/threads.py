"""Agents, each in a thread of its own, that find each other in one book of addresses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from typing import TypeVar

Result = TypeVar("Result")
HOST = "127.0.0.1"
LISTEN = f"{HOST}:0"
randrange = SystemRandom().randrange  # whatever seeds a test sets
LONG_S = 300.0  # patience that never ends in a test, however slow the machine
SOON_S = 60.0  # what comes within milliseconds, and has not after so long, is a deadlock


def together(works: Sequence[Callable[[], Result]], end_s: float = 3 * SOON_S) -> list[Result]:
    """What each gives, all begun at once; the first error as soon as one fails, and none hangs."""
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def guarded(k: int) -> None:
        try:
            results[k] = works[k]()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(k,), daemon=True) for k in range(len(works))]
    for thread in running:
        thread.start()
    end = time.monotonic() + end_s
    for thread in running:
        while thread.is_alive() and not errors and time.monotonic() < end:
            thread.join(0.1)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in running), "a deadlock"
    return [results[k] for k in range(len(works))]


def until(what: Callable[[], object], wait_s: float = SOON_S) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + wait_s
    while not what():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


@contextmanager
def closing(things: Sequence[object]) -> Iterator[None]:
    """Close all of them in the end, at once."""
    try:
        yield
    finally:
        together([thing.close for thing in things], SOON_S)  # type: ignore[attr-defined]


def loopback() -> str:
    """An address of this machine that nobody else has."""
    return f"127.{randrange(1, 255)}.{randrange(1, 255)}.{randrange(1, 255)}"


def peers_file(folder: Path, agents: int, name: str = "peers") -> Path:
    """A file of addresses that nobody else has, on this machine; made once."""
    path = folder / f"{name}.yaml"
    if not path.exists():
        host = loopback()
        lines = [f"{i}: {{address: '{host}:{7400 + i}'}}\n" for i in range(agents)]
        path.write_text("".join(lines))
    return path
