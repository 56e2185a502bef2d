"""Ranks in processes forked from the test: what they do may be a closure of it."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection
from typing import Any, TypeVar
from uuid import uuid4

import pytest
import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined] # noqa: TID251

from dimat.compat import tree_map
from dimat.exchange import ranks
from dimat.exchange.torchrun import Torchrun, world

Result = TypeVar("Result")
HOST = "127.0.0.1"
LONG_S = 300.0  # what takes longer is a deadlock, however slow the machine
_FORKED = multiprocessing.get_context("fork")


# Torch asks for the name of each address that it connects to; not all name servers answer always.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")


@cache
def _port() -> int:
    """Of a store in a process of its own, which forks nothing, where ranks find each other."""
    ours, theirs = _FORKED.Pipe()
    _FORKED.Process(target=_serve, args=(theirs,), daemon=True).start()
    return int(ours.recv())


def _serve(talk: Connection) -> None:
    store = TCPStore(HOST, 0, None, True, wait_for_workers=False)
    talk.send(store.port)
    signal.pause()


def environments(size: int) -> list[Mapping[str, str]]:
    """What torchrun says to each rank of a start of its own."""
    every = {"MASTER_ADDR": HOST, "MASTER_PORT": str(_port()), "WORLD_SIZE": str(size)}
    every |= {"LOCAL_WORLD_SIZE": str(size), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    every |= {"TORCHELASTIC_RUN_ID": uuid4().hex}
    return [{**every, "RANK": str(k)} for k in range(size)]


@contextmanager
def processes(works: Sequence[Callable[[], object]]) -> Iterator[list[tuple[Any, Connection]]]:
    """A process for each work, and where it sends what that gives or raises; none is left."""
    running = []
    for work in works:
        ours, theirs = _FORKED.Pipe(duplex=False)
        process = _FORKED.Process(target=_child, args=(work, theirs))
        process.start()
        theirs.close()
        running.append((process, ours))
    try:
        yield running
    finally:
        for process, _ in running:
            process.kill()
            process.join()


def _child(work: Callable[[], object], results: Connection) -> None:
    faulthandler.dump_traceback_later(LONG_S / 2, exit=True)  # where it hangs, if it does
    torch.set_num_threads(1)  # threads of a pool are not forked
    try:
        found = work()
    except BaseException as error:
        found = error
    buffer = io.BytesIO()  # each tensor with memory of its own, as torch.save wants it
    torch.save(tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, found), buffer)
    results.send_bytes(buffer.getvalue())


def outcomes(works: Sequence[Callable[[], object]]) -> list[Any]:
    """What each gives or raises, all begun at once; the exit code of one that does not end well."""
    with processes(works) as running:
        return [_outcome(*own) for own in running]


def _outcome(process: Any, results: Connection) -> Any:
    found = None
    with contextlib.suppress(EOFError):
        assert results.poll(LONG_S), "a deadlock"
        found = torch.load(io.BytesIO(results.recv_bytes()), weights_only=False)
    process.join(LONG_S)
    assert process.exitcode is not None, "a process does not end"
    return process.exitcode or found


def ranked(size: int, work: Callable[[Torchrun], object]) -> list[Callable[[], object]]:
    """The work of each rank."""

    def rank(environment: Mapping[str, str]) -> object:
        own = world(patience_s=LONG_S, environment=environment)
        try:
            return work(own)
        finally:
            own.close()

    return [lambda own=own: rank(own) for own in environments(size)]  # type: ignore[misc]


def on_ranks(size: int, work: Callable[[Torchrun], Result]) -> list[Result]:
    """What each rank gives; the first error if one fails, and none may hang."""
    found = outcomes(ranked(size, work))
    for own in found:
        if isinstance(own, BaseException):
            raise own
    return found


def delay_transfers(monkeypatch: pytest.MonkeyPatch, most_s: float = 0.002) -> None:
    """Every transfer of a rank waits first, some for long, in a process as it happens to be."""
    move = ranks.Peers._move

    def slowly(self: ranks.Peers, *given: Any) -> None:
        draw = random.SystemRandom()  # not the same in all that were forked from one
        if draw.random() < 0.5:
            time.sleep(draw.random() * most_s * (10 if draw.random() < 0.05 else 1))
        move(self, *given)

    monkeypatch.setattr(ranks.Peers, "_move", slowly)
