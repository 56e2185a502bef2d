"""The endpoint of an agent: one gRPC server, and a link to each of its neighbors.

Of two neighbors the one of the higher number dials, if the other has an address; one stream carries
both directions, so an agent behind a NAT needs no address of its own.
"""

from __future__ import annotations

import atexit
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from dimat.errors import ConfigError, shown
from dimat.exchange.network.hosts import join_address, split_address
from dimat.exchange.network.link import Link, Rules, Status
from dimat.exchange.network.peers import Addresses
from dimat.exchange.network.rpc import grpc
from dimat.exchange.network.security import SERVER_OPTIONS, Claim, Security
from dimat.exchange.network.stream import Stream, TurnedAway, ending
from dimat.exchange.wire import Frame, Kind
from dimat.identity import Refused

_SERVICE = "dimat.Agent"
_EXCHANGE = f"/{_SERVICE}/Exchange"
_RETRY_S = 1.0  # between attempts, where the other end refuses
_LOOK_S = 0.05  # between looks for an address that is not known yet
_ANSWER_S = 20.0  # for an answer to a call: who is called may look first who is there already
_CHECK_S = 10.0  # between looks at certificates that may have expired or been revoked
_MOST_CALLS = 512  # at once: one of each neighbor, and some that ask for the status
_MOST_FORMED, _WITHIN_S = 100, 10.0  # streams of one neighbor that are let in
MOST_PROBE = 1 << 20  # bytes
_BEATS = 3  # that one who lives cannot miss
_ALARM_S = 60.0  # at least, between alarms about one neighbor: it fills no file with refusals
# Causes of refusals that pass by themselves, as agents begin, end, or read peers.yaml anew.
_PASSING = {"no-neighbor", "leaving", "not-to-dial", "too-often"}


class Endpoint:
    """Forms a link to each neighbor that is asked for, and says goodbye to all in the end.

    Args:
        agent: Number of our agent.
        addresses: Where the agents are found.
        listen: HOST:PORT where we listen, and nowhere else; port 0: any that is free. None: we
            only dial.
        security: How we prove who we are, and know who the others are.
        rules: What all links have in common.
        greeting: What each other end is told of us whenever a link to it forms.
        status: What those who may ask are told of us, as JSON; called with the endpoint.

    Attributes:
        changed: Held to look at links; notified when there is something to look at.
        waiting: Whether we wait for others, and so are not what others wait for.
        refused: Number of calls that were refused, by cause.
        event: Called with the kind and the facts of what happens to links and calls, by keyword;
            of the kind ``alarm`` is what keeps us from neighbors until somebody mends it.
        probed: Number of calls by which neighbors measured how fast we take what they send.
        address: HOST:PORT where we listen; None if we only dial.

    Raises:
        ConfigError: If it cannot listen there.
    """

    def __init__(
        self,
        agent: int,
        addresses: Addresses,
        listen: str | None,
        security: Security,
        rules: Rules | None = None,
        greeting: Callable[[int], Mapping[str, Any]] = lambda them: {},
        status: Callable[[Endpoint], bytes] = lambda endpoint: b"{}",
    ) -> None:
        self.agent, self.rules, self.security = agent, rules or Rules(), security
        self.changed = threading.Condition(threading.RLock())
        self.waiting = False
        self.refused: Counter[str] = Counter()
        self.probed: Counter[int] = Counter()
        self.event: Callable[..., object] = lambda kind, **facts: None
        self.life = uuid.uuid4().hex
        self._addresses, self._greeting, self._status = addresses, greeting, status
        self._links: dict[int, Link] = {}
        self._lives: dict[int, str] = {}
        self._formed: dict[int, deque[float]] = {}
        self._channels: dict[int, tuple[object, grpc.Channel]] = {}
        self._unanswered: dict[Link, tuple[Stream, str]] = {}  # and the address that was called
        self._refusals: dict[int, str] = {}  # why we refuse what those show whom we dial
        self._alarms: dict[object, tuple[str, float]] = {}  # what was said about what, and when
        self._unusable = ""
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server: grpc.Server | None = None
        self.address: str | None = None
        if listen is not None:
            self._server, self.address = self._serve(listen)
        self._begin(self._watch)
        atexit.register(self.close)

    def to(self, them: int) -> Link:
        """The link to a neighbor; begins to form when first asked for."""
        with self.changed:
            if them in self._links:
                return self._links[them]
            link = Link(self.agent, them, lambda: self._greets(them), self.rules, self.changed)
            link.noticed = lambda status, why: self.event(
                "neighbor", agent=them, link=status.value, why=shown(why)
            )
            self._links[them] = link
        self._begin(self._dial, link)
        return link

    def _greets(self, them: int) -> Mapping[str, Any]:
        own = {"check": self.rules.check, "time": time.time(), "peers": self.peers_digest}
        return {**own, **self._greeting(them)}

    @property
    def peers_digest(self) -> str:
        """A digest of all addresses, for people to compare."""
        return self._addresses.digest

    def all(self) -> Mapping[int, Link]:
        """Those asked for so far."""
        with self.changed:
            return dict(self._links)

    def close(self) -> None:
        """Say goodbye to all, and wait until they have heard it or are lost."""
        if self._closing.is_set():
            return
        self._closing.set()
        end = time.monotonic() + self.rules.timeout_s
        with self.changed:
            self._part()
            while self._is_heard_out() and (left := end - time.monotonic()) > 0:
                self.changed.wait(min(left, self.rules.beat_s))
                self._part()  # from who came up meanwhile too
        for link in self.all().values():
            if link.stream is not None:
                link.stream.cancel("this agent ends")
        if self._server is not None:
            self._server.stop(None).wait(self.rules.timeout_s)
        for them in list(self._channels):
            self._hang_up(them)
        for thread in list(self._threads):
            thread.join(max(end - time.monotonic(), 1.0))
        atexit.unregister(self.close)

    def _part(self) -> None:
        """Say goodbye on each edge, of which the first counts; those that still form end."""
        for link in self._links.values():
            link.post(Frame(Kind.BYE))
            if link.status is not Status.UP and link.stream is not None:
                link.stream.cancel("this agent ends")

    def _is_heard_out(self) -> bool:
        """Whether a neighbor has not yet heard our goodbye."""
        return any(link.stream is not None for link in self._links.values())

    def _begin(self, work: Callable[..., object], *given: object) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads = [own for own in self._threads if own.is_alive()] + [thread]
        thread.start()

    def _stream(self) -> Stream:
        own = self.rules
        return Stream(beat_s=own.beat_s, limit_bytes=own.limit_bytes, waits=lambda: self.waiting)

    # --- the one who dials --------------------------------------------------------------------

    def _dial(self, link: Link) -> None:
        """Form a link again and again, if it is us who dial."""
        while not self._closing.is_set():
            address = self._dialed(link.them)
            if address is None:
                self._closing.wait(_LOOK_S)
                continue
            try:
                again = self._call(link, address)
            except Exception as error:  # any: an edge whose thread has ended never forms again
                again = False
                if isinstance(error, Refused):
                    self._refusals[link.them] = _said_to_them(error)
                    self._count(error)
                self._hear_refusal(link, str(error) if isinstance(error, TurnedAway) else "")
                if link.epoch == 0:  # otherwise why it broke says more
                    link.turn(Status.DOWN, shown(str(error) or repr(error)))
            if not again:
                self._closing.wait(_RETRY_S)

    def _dialed(self, them: int) -> str | None:
        """The address of a neighbor that it is for us to dial."""
        address = self._addresses.of(them)
        ours = self.agent > them or self._addresses.of(self.agent) is None
        return address if ours else None

    def _call(self, link: Link, address: str) -> bool:
        """One stream to a neighbor, until it ends; False if the next is not to be at once."""
        stream, them = self._stream(), link.them
        refusal = self._refusals.get(them, "")
        nonce, claim = self.security.claim(self.agent, them, self.life, refusal)
        dial: Any = self._channel(them, address).stream_stream(_EXCHANGE)
        call = dial(stream.outgoing(), metadata=claim)
        stream.open(call, call.cancel)
        self._unanswered[link] = stream, address
        try:
            said = dict(call.initial_metadata() or ())  # waits for the other end
            if not call.is_active() and not said:
                raise ending(call, stream.why)
            stream.certificate = self.security.check_answer(said, nonce, self.agent, them)
            self._refusals.pop(them, None)
        except BaseException as error:
            stream.cancel(str(error))
            raise
        finally:
            del self._unanswered[link]
        served = link.serve(stream)
        end = time.monotonic() + _RETRY_S
        while call.is_active() and time.monotonic() < end:  # the last that we said is on its way
            time.sleep(_LOOK_S)
        call.cancel()
        return served

    def _channel(self, them: int, address: str) -> grpc.Channel:
        """The channel to a neighbor, made anew where its address or our certificate is new."""
        made_for = (address, self.security.identity)
        before = self._channels.get(them)
        if before is not None and before[0] == made_for:
            return before[1]
        if before is not None:
            before[1].close()
        channel = self.security.channel(them, address)
        self._channels[them] = made_for, channel
        return channel

    def _hang_up(self, them: int) -> None:
        """Close the connection to a neighbor; the next call makes a new one."""
        _, channel = self._channels.pop(them, (None, None))
        if channel is not None:
            channel.close()

    # --- the one who is dialed ----------------------------------------------------------------

    def _serve(self, listen: str) -> tuple[grpc.Server, str]:
        threads: Any = _ThreadPerCall()
        options = list(SERVER_OPTIONS)
        server = grpc.server(threads, options=options, maximum_concurrent_rpcs=_MOST_CALLS)
        methods: dict[str, Any] = {
            "Exchange": grpc.stream_stream_rpc_method_handler(self._called),
            "Status": grpc.stream_unary_rpc_method_handler(self._asked),
        }
        handler = grpc.method_handlers_generic_handler(_SERVICE, methods)
        server.add_generic_rpc_handlers((handler,))
        place = split_address(listen)
        if place is None:
            raise ConfigError(f"setting 'listen' is '{listen}': must be HOST:PORT")
        port = self.security.listen(server, listen)
        server.start()
        return server, join_address(place[0], port)

    def _called(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """One stream from a neighbor: what it sends is read by a thread of its own."""
        try:
            claim = self.security.claim_of(context, self.agent)
            link = self._let_in(claim)
        except Refused as refused:
            self._refuse(context, refused)
        self._hear_refusal(link, claim.refusal)
        stream = self._stream().open(requests, context.cancel)
        stream.certificate = claim.certificate
        context.send_initial_metadata(self.security.answer(claim, self.agent))
        self._begin(link.serve, stream)
        return stream.outgoing()

    def _asked(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """What we tell those who ask how we are; only of a neighbor we take what it sends."""
        try:
            claim = self.security.claim_of(context, self.agent)
        except Refused as refused:
            self._refuse(context, refused)
        with self.changed:
            near = claim.agent in self._links
        if near and (probe := next(requests, b"")):
            self._take_probe(claim, len(probe), context)
        context.send_initial_metadata(self.security.answer(claim, self.agent))
        return self._status(self)

    def _take_probe(self, claim: Claim, size: int, context: grpc.ServicerContext) -> None:
        """Let a neighbor measure how fast we take what it sends, in small pieces."""
        if claim.agent is None or size > MOST_PROBE:
            rule = f"a neighbor sends at most {MOST_PROBE} bytes to measure"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, rule)
        with self.changed:
            self.probed[claim.agent] += 1
            self.changed.notify_all()

    def _refuse(self, context: grpc.ServicerContext, refused: Refused) -> None:
        self._count(refused)
        context.abort(grpc.StatusCode.PERMISSION_DENIED, _said_to_them(refused))

    def _hear_refusal(self, link: Link, refusal: str) -> None:
        """Note that a neighbor refuses us, and why; empty: it does not."""
        link.turned_away(refusal)
        told = f"agent {link.them} refuses us: {refusal}" if is_lasting(refusal) else ""
        self._alarm(link, told)

    def _alarm(self, about: object, why: str) -> None:
        """Say once what keeps us from neighbors; empty: nothing does any more."""
        now = time.monotonic()
        with self.changed:
            said, when = self._alarms.get(about, ("", float("-inf")))
            if why == said or (why and now - when < _ALARM_S):
                return
            self._alarms[about] = why, now if why else when
        if why:
            self.event("alarm", why=why)

    def _count(self, refused: Refused) -> None:
        with self.changed:
            self.refused[refused.cause] += 1
            times = self.refused[refused.cause]
        if times.bit_count() == 1:  # whoever calls again and again fills no file
            self.event("refused", cause=refused.cause, why=shown(str(refused)), times=times)

    def _let_in(self, claim: Claim) -> Link:
        """The link that a caller's stream is for.

        Raises:
            Refused: If it is no neighbor, calls too often, or is here already.
        """
        them = claim.agent
        with self.changed:
            link = None if them is None else self._links.get(them)
        if them is None or link is None:
            raise Refused("no-neighbor", f"agent {them} is no neighbor of agent {self.agent}")
        if self._closing.is_set():
            raise Refused("leaving", f"agent {self.agent} is leaving")
        if self._dialed(them) is not None:
            raise Refused(
                "not-to-dial", f"agent {self.agent} dials agent {them}, by its peers.yaml"
            )
        now = time.monotonic()
        with self.changed:
            formed = self._formed.setdefault(them, deque(maxlen=_MOST_FORMED))
            if len(formed) == _MOST_FORMED and now - formed[0] < _WITHIN_S:
                raise Refused("too-often", f"agent {them} calls more than ten times a second")
            formed.append(now)
        if self._lives.get(them) != claim.life and self._shows_life(link):
            raise Refused(
                "twice", f"agent {them} is here already: two processes claim its number, stop one"
            )
        self._lives[them] = claim.life
        return link

    def _shows_life(self, link: Link) -> bool:
        """Whether the process that a link leads to still lives, and is not only not yet lost."""
        stream = link.stream
        end = time.monotonic() + _BEATS * self.rules.beat_s
        began = time.monotonic()
        while stream is not None and link.stream is stream and time.monotonic() < end:
            if stream.arrived > began:
                return True
            time.sleep(_LOOK_S)
        return False

    # --- while the run lives ------------------------------------------------------------------

    def _watch(self) -> None:
        """Cut the streams of those who show no life, and of those who may not talk any more."""
        before = checked = time.monotonic()
        while not self._closing.wait(self.rules.beat_s):
            now = time.monotonic()
            took_s, before = now - before, now
            streams = [(x, x.stream) for x in self.all().values() if x.stream is not None]
            called = [(link, own) for link, (own, _) in list(self._unanswered.items())]
            for link, stream in [*streams, *called]:
                silence = _ANSWER_S if (link, stream) in called else link.rules.timeout_s
                if took_s > silence / 2:  # it was us: what arrived meanwhile is still to be read
                    stream.arrived = now
                elif now - stream.arrived > silence:
                    stream.cancel(f"no sign of life for {silence:g} s")
                    self._hang_up(link.them)  # TCP may take it for alive for a quarter of an hour
            for link, (stream, address) in list(self._unanswered.items()):
                if self._dialed(link.them) != address:
                    stream.cancel("it is not there any more")
            if now - checked > _CHECK_S:
                checked = now
                self._check_certificates(streams)

    def _check_certificates(self, streams: Sequence[tuple[Link, Stream]]) -> None:
        try:
            self._notice_files(self.security.refresh())
        except Exception as error:  # any: a check that fails is none that was passed
            why = shown(str(error) or repr(error))
            for _, stream in streams:
                stream.cancel(why)
            self._alarm("own", f"no neighbor talks to us: {why}")
            return
        self._alarm("own", "")
        for link, stream in streams:
            try:
                if self.security.identity is not None:
                    self.security.check_again(stream.certificate, link.them)
            except Exception as error:  # any, as above
                stream.cancel(shown(str(error) or repr(error)))
                if isinstance(error, Refused):
                    self._refusals[link.them] = _said_to_them(error)
                    self._count(error)

    def _notice_files(self, problem: str) -> None:
        """Say what is wrong with renewed files, once they are so for longer than a copy takes."""
        lasts, self._unusable = problem and problem == self._unusable, problem
        told = f"what was read before stays in use: {shown(problem)}"
        self._alarm("files", told if lasts else "")


def is_lasting(refusal: str) -> bool:
    """Whether a refusal, as the other end says it, lasts until somebody mends something."""
    return bool(refusal) and refusal.partition(":")[0] not in _PASSING


def _said_to_them(refused: Refused) -> str:
    """Why we refuse another end, as it is told: its cause in a word, then the reason."""
    why = str(refused).replace("its certificate", "your certificate")
    return f"{refused.cause}: {shown(why)}"


class _ThreadPerCall(futures.Executor):
    """A daemon thread for each call: threads of a pool would hold up the end of the process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """The result to come of a function, which a new thread begins at once."""
        future: futures.Future[Any] = futures.Future()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future
