"""Frames over one gRPC stream, both ways, and how long ago the other end last showed life."""

from __future__ import annotations

import queue
import secrets
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.errors import ExchangeError, StructureError, shown
from dimat.exchange.network.rpc import grpc, in_short
from dimat.exchange.wire import (
    PIECE,
    WORD,
    Frame,
    Kind,
    Preamble,
    checksum,
    read_head,
    wrapped,
)

_LEAST_UNSENT = 1 << 26  # bytes that may wait to be sent, however small messages are
_MOST_UNSENT = 3  # messages that may


class Broken(ExchangeError):
    """The other end is gone, or gave no sign of life in time."""


class TurnedAway(Broken):
    """The other end refuses us; says the cause, in a word, and why."""


class Stream:
    """Frames over one gRPC stream: gRPC takes what is posted, one thread receives.

    Where nothing else is to be sent a beat is, so that a slow neighbor is told from a dead one.

    Args:
        beat_s: Seconds between beats.
        limit_bytes: The largest payload that is let in.
        waits: Whether this process waits for others, which the beats say.

    Attributes:
        session: What the other end is to call the stream in its frames: a replay of a frame of any
            other stream is refused.
        theirs: What the other end called it, once known.
        arrived: When its last piece arrived.
        certificate: The certificate of the other end, PEM; empty in plaintext.
    """

    def __init__(
        self, *, beat_s: float, limit_bytes: int, waits: Callable[[], bool] = lambda: False
    ) -> None:
        self._incoming: Iterator[bytes] = iter(())
        self._cancel: Callable[[], object] = lambda: None
        self._beat_s, self._limit, self._waits = beat_s, limit_bytes, waits
        self._queue: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._next = 0
        self._whole: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._lent: Callable[[], object] = lambda: None
        self._most_unsent = max(_MOST_UNSENT * limit_bytes, _LEAST_UNSENT)
        self._posted = self._sent = 0  # bytes; two counters, as two threads count
        self.session, self.theirs = secrets.randbits(62), 0
        self.arrived = time.monotonic()
        self.certificate = b""
        self.why = ""

    def open(self, incoming: Iterator[bytes], cancel: Callable[[], object]) -> Stream:
        """Connect it to a call of gRPC, before anything is received; returns the stream.

        Args:
            incoming: What arrives, piece by piece; raises once the other end is gone.
            cancel: Ends the call at once, whatever either end is doing.
        """
        self._incoming, self._cancel = incoming, cancel
        return self

    def post(self, frame: Frame) -> None:
        """Send, once all that was posted before is sent; it ends if the other end takes nothing."""
        if self._posted + frame.size - self._sent > self._most_unsent:
            self.cancel("it does not take what we say")
            return
        self._posted += frame.size
        self._queue.put(frame)

    def finish(self) -> None:
        """Send all that was posted, and then nothing more."""
        self._queue.put(None)

    def cancel(self, why: str) -> None:
        """End it at once, both ways; what is on the way is lost."""
        self.why = self.why or why
        self._queue.put(None)
        self._cancel()

    def outgoing(self) -> Iterator[bytes]:
        """What gRPC is to send, piece by piece."""
        number = 0
        while True:
            try:
                frame = self._queue.get(timeout=self._beat_s)
            except queue.Empty:
                frame = Frame(Kind.BEAT, to=int(self._waits()))
            if frame is None:
                return
            yield from frame.pieces(number, self.theirs)
            number += 1
            self._sent += frame.size
            if frame.kind is Kind.BYE:
                return

    def receive(self) -> Frame:
        """The next frame; its payload is allocated only once its head was checked.

        Raises:
            Broken: If the other end is gone.
            StructureError: If what arrives is no frame of this stream.
        """
        head, header = read_head(self._piece(), self._limit)
        self._check(head)
        flat = self._memory(head.size)
        view, at, total, summed = memoryview(flat.numpy().data), 0, 0, 0
        while at < head.size:
            piece = self._piece()
            if not 0 < len(piece) <= head.size - at:
                raise StructureError("a message is longer than it said, or a piece of it is empty")
            view[at : at + len(piece)] = piece
            at += len(piece)
            if at - summed >= PIECE or at == head.size:  # while it is in the processor's cache
                whole = at // WORD * WORD
                total, summed = total + checksum(flat[summed:whole]), whole
        return Frame(head.kind, head.sender, head.to, header, flat, wrapped(total))

    def _memory(self, size: int) -> Tensor:
        """Memory for a payload: that of the one before, if nobody looks at it any more.

        Fresh memory costs a page fault every 4 KiB, a sixth of the time of an exchange of 100 MB.
        A smaller payload has its own: one that waits would keep all of what it lies in.
        """
        if not size:
            return torch.empty(0, dtype=torch.uint8)
        if self._lent() is not None or self._whole.size != size:
            self._whole = np.empty(size, np.uint8)
        lent = self._whole[:size]
        self._lent = weakref.ref(lent)  # alive as long as a tensor that shares it
        return torch.from_numpy(lent)

    def _check(self, head: Preamble) -> None:
        """Refuse a frame that was said before, or elsewhere."""
        told = head.kind in (Kind.HELLO, Kind.BEAT) or head.session == self.session
        if head.sequence != self._next or not told:
            raise StructureError("a message that was said before, or in another conversation")
        self._next += 1

    def _piece(self) -> bytes:
        try:
            piece = next(self._incoming)
        except StopIteration:
            raise Broken(self.why or "the other end is gone") from None
        except Exception as error:  # of gRPC, as many kinds as it has ways to fail
            raise ending(error, self.why) from error
        self.arrived = time.monotonic()
        return piece


def ending(call: object, why: str = "") -> Broken:
    """The error of a call of gRPC that has ended.

    Args:
        call: The call, or what it raised.
        why: Why this process ended it, if it did.
    """
    code, details = (getattr(call, name, lambda: None)() for name in ("code", "details"))
    if why:
        return Broken(why)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return TurnedAway(shown(details or ""))
    if code is grpc.StatusCode.CANCELLED:
        return Broken("it cut the connection")
    return Broken(in_short(details or "") or "the other end is gone")
