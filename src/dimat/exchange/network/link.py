"""One edge between two processes: it forms, carries frames, breaks, and forms again by itself.

Every link has a thread that receives and, while it is up, one that sends. Where nothing else is to
be sent a beat is, so that a slow neighbor is told from a dead one: whoever sends nothing at all for
``timeout_s`` is lost. What a link lost it never delivers later: its frames belong to one epoch, the
time between forming and breaking.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from dimat.errors import StructureError, shown
from dimat.exchange.network.buffers import Pool
from dimat.exchange.network.handshake import check_terms
from dimat.exchange.network.pipe import Broken, Pipe
from dimat.exchange.network.wire import PREAMBLE, Frame, Kind, read_preamble, said

_STIRS = 2  # a beat of the thread that talks
_MOST_MAIL = 16  # of an agent; only one that does not listen to us can be so far ahead
_RETRY_S = 1.0  # between attempts, where the store or the other end refuses


class Status(Enum):
    """Whether an edge carries."""

    DOWN = "down"
    UP = "up"
    LEFT = "left"  # the other end said goodbye
    DIFFERS = "differs"  # the other end's settings are not ours


@dataclass(frozen=True)
class Rules:
    """What all links of a process have in common.

    Args:
        terms: What both ends must have alike, by name, each as short text; see ``terms``.
        timeout_s: Silence after which the other end is lost, > 0.
        limit_bytes: The largest message that is let in; better known where the model is.
    """

    terms: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 30.0
    limit_bytes: int = 1 << 32

    @property
    def beat_s(self) -> float:
        """Seconds between signs of life."""
        return min(1.0, self.timeout_s / 5)


@dataclass
class Common:
    """What all links of a process share.

    Args:
        rules: Alike for all.
        what: What the ends are: agents or ranks, for messages.
        changed: Notified whenever there is something to look at.
        pool: Memory to receive into.
        waiting: Whether this process waits for others, and so is not what others wait for.
    """

    rules: Rules
    what: str = "agent"
    changed: threading.Condition = field(
        default_factory=lambda: threading.Condition(threading.RLock())
    )
    pool: Pool = field(default_factory=Pool)
    waiting: bool = False

    def may_speak(self, link: Link, frame: Frame) -> bool:
        """Whether the other end of a link may say so: an agent for itself, a rank for many."""
        return self.what != "agent" or (frame.sender, frame.to) == (link.them, link.us)


class Link:
    """Our end of an edge.

    Args:
        us: Our number: of the agent, or of the rank.
        them: The other end's.
        connect: Joins the other end: ``connect(us, them, wanted)`` gives a pipe, or None once it is
            not wanted any more.
        greeting: What we tell the other end of ourselves each time that the link forms.
        common: What all links of the process share.
    """

    def __init__(
        self,
        us: int,
        them: int,
        connect: Callable[[int, int, Callable[[], bool]], Pipe | None],
        greeting: Callable[[], Mapping[str, Any]],
        common: Common,
    ) -> None:
        self.us, self.them, self.who = us, them, f"{common.what} {them}"
        self._connect, self._greeting, self._common = connect, greeting, common
        self._changed, self.rules = common.changed, common.rules
        self.waits = False  # for others, as the other end says
        self.stirs = False  # it came to talk, and did not as it thought that we would not
        self.status, self.why, self.epoch = Status.DOWN, "not connected yet", 0
        self.greeting: Mapping[str, Any] = {}
        self._mail: dict[tuple[int, int], deque[Frame]] = {}
        self._queue: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._closing = self._resetting = False
        self._owes_until = 0.0
        name = f"link {us}-{them}"
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)

    def start(self) -> None:
        """Begin to form it."""
        self._thread.start()

    # --- for the thread that talks ------------------------------------------------------------

    def post(self, frame: Frame, epoch: int | None = None) -> None:
        """Send, once the link is up and all that was posted before is sent; lost if it breaks.

        Args:
            frame: What to send.
            epoch: Not in any other: dropped if that one is over.
        """
        with self._changed:
            if epoch is None or self.carries(epoch):
                self._queue.put(frame)

    def holds(self, sender: int, to: int) -> bool:
        """Whether a frame of an agent for an agent is there; call with the condition held."""
        return bool(self._mail.get((sender, to)))

    def take(self, sender: int, to: int) -> Frame:
        """The first of them."""
        return self._mail[sender, to].popleft()

    def carries(self, epoch: int) -> bool:
        """Whether it is up, and has been since that epoch began."""
        return self.status is Status.UP and self.epoch == epoch

    def reset(self, why: str) -> None:
        """Break it, to form it anew: both ends then begin with nothing on the way."""
        with self._changed:
            if self.status is Status.UP:
                self.status, self.why, self._resetting = Status.DOWN, why, True

    def nudge(self) -> None:
        """Tell the other end that we have come to talk, though not what we say."""
        with self._changed:
            self.post(Frame(Kind.BEAT, to=_STIRS), self.epoch)

    def close(self) -> bool:
        """Say goodbye and stop, if there is somebody to hear it; :meth:`join` waits for the end.

        What was posted before the link has ever formed is still sent, if the other end comes soon.
        """
        with self._changed:
            if self.epoch == 0 and not self._queue.empty() and not self._closing:
                self._owes_until = time.monotonic() + self.rules.timeout_s
            self._closing = True
            self.post(Frame(Kind.BYE))
            return self.status is Status.UP or self._wanted()

    def join(self, timeout_s: float) -> None:
        """Wait until both threads have ended, for so long at most."""
        self._thread.join(timeout_s)

    @property
    def lives(self) -> bool:
        """Whether they have not."""
        return self._thread.is_alive()

    # --- the thread that receives -------------------------------------------------------------

    def _wanted(self) -> bool:
        owes = self.epoch == 0 and time.monotonic() < self._owes_until
        return owes or not self._closing

    def _live(self) -> None:
        while self._wanted():
            try:
                pipe = self._connect(self.us, self.them, self._wanted)
            except Exception as error:  # any: an edge whose thread has ended never forms again
                if self.epoch == 0:  # otherwise why it broke says more
                    self._turn(Status.DOWN, _text(error))
                self._rest()
                continue
            if pipe is None:
                return
            if not self._serve(pipe):
                self._rest()

    def _rest(self) -> None:
        end = time.monotonic() + _RETRY_S
        while self._wanted() and time.monotonic() < end:
            time.sleep(0.05)

    def _turn(self, status: Status, why: str) -> None:
        with self._changed:
            self.status, self.why = status, why
            self._changed.notify_all()

    def _serve(self, pipe: Pipe) -> bool:
        """All that happens on one pipe; False if the next is not to be at once."""
        mine = self._queue
        sender = threading.Thread(target=self._send_all, args=(pipe, mine), daemon=True)
        try:
            greeting = self._greet(pipe)
            check_terms(self.rules.terms, greeting.get("terms"), self.who)
            sender.start()
        except Exception as error:  # any, no memory and no thread too: it is tried again
            pipe.close()
            differs = isinstance(error, StructureError)
            self._turn(Status.DIFFERS if differs else Status.DOWN, _text(error))
            return isinstance(error, Broken)
        with self._changed:
            self._resetting = self.waits = self.stirs = False
            self.epoch, self.greeting = self.epoch + 1, greeting
            self._turn(Status.UP, "")
        try:
            end = self._receive_all(pipe)
        except Exception as error:  # any, no memory too: what nobody receives on is not up
            end = Status.DOWN, _text(error)
        with self._changed:  # at once: nothing that was meant for this epoch goes into the next
            self._queue = queue.SimpleQueue()
            self._turn(*end)
        mine.put(None)
        pipe.close()
        sender.join()
        return True

    def _greet(self, pipe: Pipe) -> Mapping[str, Any]:
        """Tell who we are, and hear who they are."""
        with self._changed:
            self._mail = {}  # what was not looked at until now is not in what we are about to tell
            own = {"terms": dict(self.rules.terms), **self._greeting()}
        telling = threading.Thread(
            target=_quietly,
            args=(self._send, pipe, said(Kind.HELLO, self.us, self.them, own)),
            daemon=True,
        )
        telling.start()
        try:
            frame = self._receive(pipe)
        finally:
            telling.join()
        if frame.kind is not Kind.HELLO or not isinstance(frame.said, dict):
            raise StructureError(f"{self.who} does not begin with a greeting")
        greeting: Mapping[str, Any] = frame.said
        return greeting

    def _receive_all(self, pipe: Pipe) -> tuple[Status, str]:
        while True:
            frame = self._receive(pipe)
            if self._resetting:
                return Status.DOWN, self.why
            if frame.kind is Kind.BYE:
                return Status.LEFT, "it said goodbye"
            if frame.kind is Kind.HELLO:
                raise StructureError(f"{self.who} greets in the midst of what it says")
            if frame.kind is Kind.BEAT and frame.to != _STIRS:
                self.waits = bool(frame.to)
            else:
                self._keep(frame)

    def _keep(self, frame: Frame) -> None:
        """Have what was said ready for the thread that talks."""
        if frame.kind is not Kind.BEAT and not self._common.may_speak(self, frame):
            raise StructureError(f"{self.who} speaks for {frame.sender} to {frame.to}")
        with self._changed:
            self.waits = False
            if frame.kind is Kind.BEAT:
                self.stirs = True
            else:
                most = _MOST_MAIL if self._common.what == "agent" else None
                mail = self._mail.setdefault((frame.sender, frame.to), deque(maxlen=most))
                mail.append(frame)  # the oldest goes where there are too many
            self._changed.notify_all()

    def _receive(self, pipe: Pipe) -> Frame:
        preamble = torch.empty(PREAMBLE, dtype=torch.int64)
        pipe.receive(preamble, self.rules.timeout_s)
        kind, sender, to, header, payload = read_preamble(preamble, self.rules.limit_bytes)
        words = torch.empty(header, dtype=torch.uint8)
        if header:
            pipe.receive(words, self.rules.timeout_s)
        flat = self._common.pool.take(payload) if payload else torch.empty(0, dtype=torch.uint8)
        if payload:
            pipe.receive(flat, self.rules.timeout_s)
        return Frame(kind, sender, to, bytes(words.numpy()), flat)

    # --- the thread that sends ----------------------------------------------------------------

    def _send_all(self, pipe: Pipe, mine: queue.SimpleQueue[Frame | None]) -> None:
        while True:
            try:
                frame = mine.get(timeout=self.rules.beat_s)
            except queue.Empty:
                frame = Frame(Kind.BEAT, to=int(self._common.waiting))
            if frame is None:
                return
            try:
                self._send(pipe, frame)
            except Broken:
                return  # whoever receives notices too
            if frame.kind is Kind.BYE:
                return

    def _send(self, pipe: Pipe, frame: Frame) -> None:
        parts: list[Tensor] = [frame.preamble()]
        if frame.header:
            parts.append(torch.frombuffer(bytearray(frame.header), dtype=torch.uint8))
        if frame.payload.numel():
            parts.append(frame.payload)
        for part in parts:
            pipe.send(part, self.rules.timeout_s)


def _text(error: Exception) -> str:
    """What went wrong; some of it the other end may have said."""
    return shown(str(error) or repr(error))


def _quietly(send: Callable[..., None], *rest: object) -> None:
    with contextlib.suppress(Broken):  # the thread that receives says why
        send(*rest)
