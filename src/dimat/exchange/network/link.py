"""One edge between two agents: it forms, carries frames, breaks, and forms again by itself.

What a link lost it never delivers later: its frames belong to one epoch, the life of one stream.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dimat.errors import StructureError, shown
from dimat.exchange.handshake import check_terms
from dimat.exchange.network.stream import Stream
from dimat.exchange.wire import Frame, Kind, check_brief, said

NOT_YET = "not connected yet"
_STIRS = 2  # a beat of the thread that talks
_MOST_MAIL = 16  # of an agent; only one that does not listen to us can be so far ahead
_REST = 9.0  # times the processor time of a beat, or of a message for which there was no room


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
        terms: What both ends must have alike, by name, each as short text; see ``handshake``.
        timeout_s: Silence after which the other end is lost, > 0.
        limit_bytes: The largest message that is let in; better known where the model is.
        check: Whether the process only looks whether its links would form: none of them carries,
            and for the neighbors none has formed.
    """

    terms: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 30.0
    limit_bytes: int = 1 << 32
    check: bool = False

    @property
    def beat_s(self) -> float:
        """Seconds between signs of life."""
        return min(1.0, self.timeout_s / 5)


class Link:
    """Our end of an edge.

    Args:
        us: Number of our agent.
        them: Number of the agent at the other end.
        greeting: What we tell the other end of ourselves each time that the link forms.
        rules: What all links of the process have in common.
        changed: Held to look at links; notified whenever there is something to look at.
    """

    def __init__(
        self,
        us: int,
        them: int,
        greeting: Callable[[], Mapping[str, Any]],
        rules: Rules,
        changed: threading.Condition,
    ) -> None:
        self.us, self.them, self.rules = us, them, rules
        self._greeting, self._changed = greeting, changed
        self.waits = False  # for others, as the other end says
        self.stirs = False  # it came to talk, and did not as it thought that we would not
        self.status, self.why, self.epoch = Status.DOWN, NOT_YET, 0
        self.greeting: Mapping[str, Any] = {}
        self.refusal = ""  # why the other end refuses us, as it last said
        self.stream: Stream | None = None
        self._next: Stream | None = None  # waits for its turn to be served
        self.noticed: Callable[[Status, str], object] = lambda status, why: None
        self._mail: dict[tuple[int, int], deque[Frame]] = {}
        self._turn_to_serve = threading.Lock()

    # --- for the thread that talks ------------------------------------------------------------

    def post(self, frame: Frame, epoch: int | None = None) -> None:
        """Send, once all that was posted before is sent; lost if the link is down, or breaks.

        Args:
            frame: What to send.
            epoch: Not in any other: dropped if that one is over.
        """
        with self._changed:
            if self.carries(self.epoch if epoch is None else epoch) and self.stream is not None:
                self.stream.post(frame)

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
                self.noticed(Status.DOWN, why)
                self.status, self.why = Status.DOWN, why
                if self.stream is not None:
                    self.stream.cancel(why)

    def nudge(self) -> None:
        """Tell the other end that we have come to talk, though not what we say."""
        self.post(Frame(Kind.BEAT, to=_STIRS))

    # --- for the threads that receive ---------------------------------------------------------

    def turn(self, status: Status, why: str) -> None:
        """Note what became of it."""
        with self._changed:
            if status is Status.UP:
                self.refusal = ""
            elif status is Status.DOWN and self.refusal:
                why = f"it refuses us: {self.refusal}"
            if status is not self.status:
                self.noticed(status, why)
            self.status, self.why = status, why
            self._changed.notify_all()

    def turned_away(self, refusal: str) -> None:
        """Note why the other end refuses us, which says more than how the edge broke.

        Args:
            refusal: Its cause and why; empty: it does not refuse us.
        """
        with self._changed:
            self.refusal = refusal
            if refusal and self.status is Status.DOWN:
                self.turn(Status.DOWN, "")

    def serve(self, stream: Stream) -> bool:
        """All that happens on one stream, until it ends; of several the last one takes over.

        Returns:
            Whether the link was up: if not, the next attempt is not to be at once.
        """
        with self._changed:
            for older in (self.stream, self._next):
                if older is not None:
                    older.cancel("it was formed anew")
            self._next = stream
        with self._turn_to_serve:
            return self._serve(stream)

    def _serve(self, stream: Stream) -> bool:
        with self._changed:
            if self._next is not stream:
                return False  # a later one came: whoever opens many has one
            self.stream, self._next = stream, None
        try:
            greeting = self._greet(stream)
        except Exception as error:  # any, no memory too: it is tried again
            differs = isinstance(error, StructureError)
            self._end(stream, Status.DIFFERS if differs else Status.DOWN, _text(error))
            return False
        if self.rules.check or greeting.get("check") is True:
            self._end(stream, Status.DOWN, "one of the two only checks its connections")
            return False
        with self._changed:
            self.waits = self.stirs = False
            self.epoch, self.greeting = self.epoch + 1, greeting
            self.turn(Status.UP, "")
        try:
            end = self._receive_all(stream)
        except Exception as error:  # any, no memory too: what nobody receives on is not up
            end = Status.DOWN, _text(error)
        self._end(stream, *end)
        return True

    def _end(self, stream: Stream, status: Status, why: str) -> None:
        with self._changed:  # at once: nothing that was meant for this epoch goes into the next
            self.stream = None
            self._changed.notify_all()
            first = self.epoch == 0 or status is not Status.DOWN
            # That an edge broke, or said goodbye, says more than that it did not form since.
            if first or self.status is Status.UP:
                self.turn(status, why)
        stream.finish()

    def _greet(self, stream: Stream) -> Mapping[str, Any]:
        """Tell who we are, and hear who they are."""
        with self._changed:
            self._mail = {}  # what was not looked at until now is not in what we are about to tell
            own = {"terms": dict(self.rules.terms), "session": stream.session, **self._greeting()}
        stream.post(said(Kind.HELLO, self.us, self.them, own))
        frame = stream.receive()
        greeting = frame.said if frame.kind is Kind.HELLO else None
        session = greeting.get("session") if isinstance(greeting, dict) else None
        if not isinstance(greeting, dict) or type(session) is not int or not 0 <= session < 2**62:
            raise StructureError(f"agent {self.them} does not begin with a greeting")
        stream.theirs = session
        terms = greeting.pop("terms", None)
        check_brief(greeting)
        if self.rules.check:  # what differs is to be found too
            self.greeting = {**greeting, "terms": terms, "arrived": time.time()}
        check_terms(self.rules.terms, terms, f"agent {self.them}")
        return greeting

    def _receive_all(self, stream: Stream) -> tuple[Status, str]:
        while True:
            began, news = time.thread_time(), False
            frame = stream.receive()
            if frame.kind is Kind.BYE:
                return Status.LEFT, "it said goodbye"
            if frame.kind is Kind.HELLO:
                raise StructureError(f"agent {self.them} greets in the midst of what it says")
            if frame.kind is Kind.BEAT and frame.to != _STIRS:
                self.waits = bool(frame.to)
            else:
                news = self._keep(stream, frame)
            if not news:  # gRPC takes no more from the network than this thread does from gRPC
                spent = time.thread_time() - began
                time.sleep(min(_REST * spent, self.rules.beat_s))

    def _keep(self, stream: Stream, frame: Frame) -> bool:
        """Have what was said ready for the thread that talks; whether there was room for it."""
        if frame.kind is not Kind.BEAT and (frame.sender, frame.to) != (self.them, self.us):
            raise StructureError(f"agent {self.them} speaks for {frame.sender} to {frame.to}")
        with self._changed:
            if self.stream is not stream or self.status is not Status.UP:
                return False  # it was reset
            self.waits, room = False, frame.kind is not Kind.BEAT
            if frame.kind is Kind.BEAT:
                self.stirs = True
            else:
                mail = self._mail.setdefault((frame.sender, frame.to), deque(maxlen=_MOST_MAIL))
                room = len(mail) < _MOST_MAIL
                mail.append(frame)  # the oldest goes where there are too many
                while len(mail) > 1 and sum(x.payload.numel() for x in mail) > self._most_bytes:
                    room = False
                    mail.popleft()
            self._changed.notify_all()
            return room

    @property
    def _most_bytes(self) -> int:
        """Bytes that wait to be looked at, at most, beside one message."""
        return self.rules.limit_bytes


def _text(error: Exception) -> str:
    """What went wrong; some of it the other end may have said."""
    return shown(str(error) or repr(error))
