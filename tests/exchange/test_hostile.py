"""No stranger and no neighbor corrupts, hangs or exhausts an agent: two honest ones go on."""

from __future__ import annotations

import datetime
import json
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.exchange import hostile
from tests.exchange.hostile import (
    LIMIT,
    ONE,
    STATUS,
    TWO,
    Cable,
    Honest,
    Neighbor,
    Server,
    channel,
    falls_to,
    limits,
    refusal,
)
from tests.exchange.threads import LISTEN, LONG_S, SOON_S, closing, together, until
from tests.identity.making import DAY, RUN, make, make_ca, names, revoked

from dimat.exchange.network import endpoint as endpoint_module
from dimat.exchange.network import neighborhood as neighborhood_module
from dimat.exchange.network import stream as stream_module
from dimat.exchange.network.endpoint import Endpoint
from dimat.exchange.network.hosts import split_address
from dimat.exchange.network.link import Rules, Status
from dimat.exchange.network.rpc import grpc
from dimat.exchange.network.security import Security
from dimat.exchange.wire import Frame, Kind, pack

SECOND = datetime.timedelta(seconds=1)
HANDSHAKE_MS = 500  # of who says nothing; the honest ones have shaken hands before


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_RETRY_S", 0.1)


@contextmanager
def two(folder: Path, *known: int, timeout_s: float = LONG_S) -> Iterator[Honest]:
    """The honest agents, who exchange in the end as they did before, and have grown nothing."""
    honest = Honest(folder, timeout_s)
    with closing([honest]):
        for them in known:
            honest.link(them)
        honest.exchange()
        before = limits()
        yield honest
        honest.exchange()
        falls_to(before)


def short_handshakes(monkeypatch: pytest.MonkeyPatch, milliseconds: int = HANDSHAKE_MS) -> None:
    name = "grpc.server_handshake_timeout_ms"
    options = [own for own in endpoint_module.SERVER_OPTIONS if own[0] != name]
    monkeypatch.setattr(endpoint_module, "SERVER_OPTIONS", [*options, (name, milliseconds)])


# --- strangers ----------------------------------------------------------------------------------


def of_another_ca(honest: Honest) -> grpc.Channel:
    made = make(make_ca(), alternative=names(3))  # CAs of the same name
    return channel(honest, hostile.own(honest.folder / "x", made, honest.ca))


def expired(honest: Honest) -> grpc.Channel:
    return channel(honest, honest.made(3, since=-2 * DAY, until=-SECOND))


def not_yet_valid(honest: Honest) -> grpc.Channel:
    return channel(honest, honest.made(3, since=DAY, until=2 * DAY))


def signed_by_an_agent(honest: Honest) -> grpc.Channel:
    agent = make(honest.ca, alternative=names(5))
    made = make(agent, alternative=names(3))
    own = hostile.own(honest.folder / "x", made, honest.ca)
    chained = type(own)(own.run, None, own.key, made.pem + agent.pem, own.roots, own.folder)
    return channel(honest, chained)


def without(honest: Honest) -> grpc.Channel:
    named = ("grpc.ssl_target_name_override", f"agent-{ONE}.{RUN}.dimat")
    credentials = grpc.ssl_channel_credentials(honest.ca.pem)
    return grpc.secure_channel(honest.addresses[ONE], credentials, [named])


def plaintext(honest: Honest) -> grpc.Channel:
    return grpc.insecure_channel(honest.addresses[ONE])


@pytest.mark.parametrize(
    "stranger", [of_another_ca, expired, not_yet_valid, signed_by_an_agent, without, plaintext]
)
def test_a_stranger_is_refused_by_tls(
    tmp_path: Path, stranger: Callable[[Honest], grpc.Channel]
) -> None:
    with two(tmp_path, 3) as honest:
        for _ in range(3):
            assert refusal(stranger(honest)) == "UNAVAILABLE"
            honest.exchange()
        assert honest.endpoint.refused == {}
        assert honest.link(3).epoch == 0


def test_tls_1_2_is_refused(tmp_path: Path) -> None:
    with two(tmp_path, 3) as honest:
        honest.made(3)
        folder = tmp_path / f"{RUN}-3"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(folder / "ca.pem")
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        context.set_alpn_protocols(["h2"])
        for newest, works in ((ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)):
            context.maximum_version = newest
            with connect(honest) as plain:
                try:
                    with context.wrap_socket(
                        plain, server_hostname=f"agent-{ONE}.{RUN}.dimat"
                    ) as own:
                        assert works, own.version()
                        assert own.version() == "TLSv1.3"
                except (ssl.SSLError, ConnectionError):
                    assert not works
            honest.exchange()


@pytest.mark.parametrize(
    ("of", "run", "claimed", "cause"),
    [
        (5, RUN, 3, "other-agent"),
        (ONE, RUN, 3, "other-agent"),
        (3, "another", 3, "other-run"),
        (None, RUN, 3, "other-agent"),
        (None, RUN, None, "no-neighbor"),
        (3, RUN, None, "no-neighbor"),
        (5, RUN, 5, "no-neighbor"),
        (TWO, RUN, TWO, "twice"),  # a stolen key, while its owner is here
    ],
)
def test_a_good_certificate_of_another_is_refused_with_its_cause(
    tmp_path: Path, of: int | None, run: str, claimed: int | None, cause: str
) -> None:
    with two(tmp_path, 3) as honest:
        identity = honest.made(of, run)
        for k in range(3):
            assert refusal(channel(honest, identity), claimed) == cause
            honest.exchange()
            assert honest.endpoint.refused == {cause: k + 1}
        assert honest.link(TWO).epoch == 1


def test_who_is_revoked_is_cut_and_does_not_come_back_whoever_dials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "_CHECK_S", 0.05)
    with two(tmp_path) as honest:
        rules = Rules(timeout_s=LONG_S, limit_bytes=LIMIT)
        identities = {i: honest.made(i) for i in (0, 3)}
        low, high = (
            Endpoint(i, honest.addresses, LISTEN, Security(RUN, own), rules)
            for i, own in identities.items()
        )
        alarms: dict[int, list[str]] = {0: [], 3: []}
        with closing([low, high]):
            for own in (low, high):
                own.event = lambda kind, own=own, **facts: (
                    alarms[own.agent].append(facts["why"]) if kind == "alarm" else None
                )
            assert low.address is not None
            honest.addresses[0] = low.address
            links = [honest.link(0), honest.link(3), low.to(ONE), high.to(ONE)]
            until(lambda: all(link.status is Status.UP for link in links))
            serials = [own._chain[0].serial_number for own in identities.values()]
            (honest.at(ONE) / "revoked.pem").write_bytes(revoked(honest.ca, 1, *serials))
            until(lambda: all(link.status is Status.DOWN for link in links))
            honest.exchange()
            for link in links[:2]:
                assert "was revoked on" in link.why
            for link, number in zip(links[2:], serials, strict=True):  # whoever of the two dials
                told = f"revoked: your certificate, serial {number:x}, was revoked on "
                until(lambda link=link, told=told: f"it refuses us: {told}" in link.why)
                until(lambda link=link: alarms[link.us])
                assert alarms[link.us][0].startswith(f"agent {ONE} refuses us: {told}")
            seen = honest.endpoint.refused["revoked"]
            until(lambda: honest.endpoint.refused["revoked"] > seen + 5)  # they call, and we do
            honest.exchange()
            assert [link.epoch for link in links] == [1] * 4
            assert [len(own) for own in alarms.values()] == [1, 1]  # though they call and call
        honest.endpoint._links.pop(0)  # ends are for the count of threads
        del honest.addresses[0]


def test_a_neighbor_that_says_why_it_refuses_us_says_little_and_fills_no_file(
    tmp_path: Path,
) -> None:
    with two(tmp_path, 3) as honest:
        alarms = list[str]()
        honest.endpoint.event = lambda kind, **facts: (
            alarms.append(facts["why"]) if kind == "alarm" else None
        )
        for k in range(5):
            noise = f"revoked: \x1b[2J{k}" + "x" * 5000
            _, claim = Security(RUN).claim(3, ONE, "3", noise)
            own = channel(honest, honest.made(3))
            call = own.stream_stream(hostile.EXCHANGE)(iter(()), metadata=claim, timeout=SOON_S)
            assert dict(call.initial_metadata())  # let in; its words are words
            until(lambda k=k: f"x1b[2J{k}x" in honest.link(3).refusal)
            own.close()
        assert len(honest.link(3).refusal) <= 500
        assert "\x1b" not in honest.link(3).refusal
        (told,) = alarms
        assert told.startswith(r"agent 3 refuses us: revoked: \x1b[2J0x")
        with neighbor(honest):  # whom nobody refuses any more
            assert honest.link(3).refusal == ""


# --- servers that a dialing agent is led to -----------------------------------------------------


@pytest.mark.parametrize("kind", ["of another agent", "of another CA", "expired", "revoked", "own"])
def test_a_server_with_a_wrong_certificate_is_told_nothing(tmp_path: Path, kind: str) -> None:
    """As a relay is that ends TLS itself, and passes on what it hears."""
    with two(tmp_path) as honest:
        identity = {
            "of another agent": lambda: honest.made(5),
            "of another CA": lambda: hostile.own(
                tmp_path / "x", make(make_ca(), alternative=names(0)), honest.ca
            ),
            "expired": lambda: honest.made(0, since=-2 * DAY, until=-SECOND),
            "revoked": lambda: honest.made(0),
            "own": lambda: honest.made(ONE),
        }[kind]()
        if kind == "revoked":
            number = identity._chain[0].serial_number
            (honest.at(ONE) / "revoked.pem").write_bytes(revoked(honest.ca, 1, number))
        server = Server(honest, identity)
        with closing([server]):
            link = honest.link(0)
            until(lambda: link.why not in ("not connected yet", ""))
            honest.exchange()
            if kind == "revoked":  # TLS knows nothing of it, so it comes out after the handshake
                until(lambda: honest.endpoint.refused["revoked"] > 1)
            else:
                assert server.calls == 0
            assert {*server.told} <= {Kind.BEAT}
            assert link.epoch == 0
            del honest.addresses[0]


def test_a_server_that_takes_a_call_and_never_answers_holds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "_ANSWER_S", 0.5)
    with two(tmp_path) as honest:
        silent = Server(honest, honest.made(0), answers=False)
        link = honest.link(0)
        until(lambda: silent.calls)
        until(lambda: "no sign of life for 0.5 s" in link.why)
        honest.exchange()
        monkeypatch.setattr(endpoint_module, "_ANSWER_S", LONG_S)
        with closing([silent]):
            real = Endpoint(0, honest.addresses, LISTEN, Security(RUN, honest.made(0)))
            with closing([real]):
                assert real.address is not None
                honest.addresses[0] = real.address
                back = real.to(ONE)
                until(lambda: link.status is back.status is Status.UP)
            del honest.addresses[0]


# --- connections --------------------------------------------------------------------------------


def connect(honest: Honest) -> socket.socket:
    place = split_address(honest.addresses[ONE])
    assert place is not None
    return socket.create_connection(place, SOON_S)


def is_closed(own: socket.socket) -> bool:
    """Wait until the other end has closed a connection."""
    try:
        while own.recv(1 << 12):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_a_handshake_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_handshakes(monkeypatch, 5_000)
    with two(tmp_path) as honest:
        sockets = [connect(honest) for _ in range(20)]
        for k, own in enumerate(sockets):  # each stops at another byte of it
            own.sendall(bytes.fromhex("1603010200010001fc0303")[: k % 11 + 1])
        honest.exchange()
        for own in sockets:
            with own:
                assert is_closed(own)


def test_a_thousand_idle_connections_are_closed_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"a process may have {hard} descriptors here, and this test needs 4096")
    monkeypatch.setattr(endpoint_module, "_RETRY_S", 0.1)
    short_handshakes(monkeypatch, 5_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        with two(tmp_path) as honest:
            before, _ = limits()
            sockets = [connect(honest) for _ in range(1000)]
            most = dict(endpoint_module.SERVER_OPTIONS)["grpc.max_allowed_incoming_connections"]
            assert limits()[0] <= before + 1000 + most + hostile.SLACK
            honest.exchange()
            assert all(is_closed(own) for own in sockets)
            for own in sockets:
                own.close()
            link = honest.link(TWO)
            link.reset("for a test")
            until(lambda: link.epoch == 2 and link.status is Status.UP)
            assert honest.hoods[TWO].await_neighbors([ONE], SOON_S) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("dials", [True, False])
def test_a_neighbor_that_vanished_without_a_word_is_lost_and_found_at_another_address(
    tmp_path: Path, dials: bool
) -> None:
    """No FIN, no RST: TCP takes it for alive, for a quarter of an hour."""
    honest = Honest(tmp_path)
    honest.endpoint.rules = Rules(timeout_s=1.0, limit_bytes=LIMIT)  # for new links
    them = 0 if dials else 3
    rules = Rules(timeout_s=1.0, limit_bytes=LIMIT)
    other = Endpoint(them, honest.addresses, LISTEN, Security(RUN, honest.made(them)), rules)
    with closing([honest, other]):
        assert other.address is not None
        server = other.address if dials else honest.addresses[ONE]
        cable = Cable(server)
        with closing([cable]):
            honest.addresses[0 if dials else ONE] = cable.address
            link, back = honest.link(them), other.to(ONE)
            until(lambda: link.status is back.status is Status.UP)
            cable.die()
            until(lambda: Status.UP not in (link.status, back.status))
            assert link.why == "no sign of life for 1 s"
            honest.exchange()
            honest.addresses[0 if dials else ONE] = server
            until(lambda: link.status is back.status is Status.UP)
            honest.exchange()


# --- a neighbor with a good certificate ---------------------------------------------------------


@contextmanager
def neighbor(honest: Honest, *, listens: bool = True) -> Iterator[Neighbor]:
    """Agent 3, whose edge to agent 1 is up."""
    other = Neighbor(honest, honest.made(3), listens=listens)
    with closing([other]):
        other.greet()
        until(lambda: honest.link(3).status is Status.UP)
        yield other


def message(number: float = 0.0, words: int = 2) -> Frame:
    """What agent 3 says in a merge."""
    told = {"about": "a merge", "step": 0, "quiet": False}
    header, payload = pack({"x": torch.full((words,), number)}, told)
    return Frame(Kind.DATA, 3, ONE, header, payload)


@pytest.mark.parametrize("again", ["on its stream", "on another"])
def test_what_was_recorded_is_not_taken_again(tmp_path: Path, again: str) -> None:
    with two(tmp_path, 3) as honest:
        link = honest.link(3)
        with neighbor(honest) as first:
            first.speak(message())
            until(lambda: link.holds(3, ONE))
            link.take(3, ONE)
            if again == "on its stream":
                first.repeat(first.said[-2:])
                until(lambda: link.status is Status.DOWN)
            recorded = list(first.said)
        if again == "on another":
            until(lambda: link.status is Status.DOWN)
            second = Neighbor(honest, honest.made(3), "another")
            with closing([second]):
                second.repeat(recorded[:1])  # a greeting tells nothing
                until(lambda: link.epoch == 2)
                second.repeat(recorded[1:])
                until(lambda: link.status is Status.DOWN)
        assert link.why == "a message that was said before, or in another conversation"
        assert not link.holds(3, ONE)


def test_a_byte_at_a_time_holds_up_one_edge_and_no_longer_than_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = [0.0]
    clock = SimpleNamespace(
        monotonic=lambda: time.monotonic() + ahead[0],
        perf_counter=time.perf_counter,
    )
    monkeypatch.setattr(neighborhood_module, "time", clock)
    with two(tmp_path, 3) as honest, neighbor(honest) as slow:
        slow.repeat(slow.trickle(LIMIT))
        stop, inboxes = threading.Event(), ({}, {})  # type: ignore[var-annotated]

        def bytewise() -> None:
            while not stop.wait(0.02):
                slow.queue.put(b"\0")

        def let_time_pass() -> None:
            until(lambda: honest.link(TWO) in honest.hoods[ONE]._counted)
            ahead[0] += LONG_S + 1

        threading.Thread(target=bytewise, daemon=True).start()
        together(
            [
                lambda: honest.talk(ONE, [TWO, 3], inboxes[0]),
                lambda: honest.talk(TWO, [ONE], inboxes[1]),
                let_time_pass,
            ]
        )
        stop.set()
        ahead[0] = 0
        assert [*inboxes[0]] == [TWO]
        assert [*inboxes[1]] == [ONE]
        (lost,) = honest.hoods[ONE].incidents
        assert (lost.agent, lost.what) == (3, "lost")
        assert lost.why.endswith("though it lives")


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.ACCEPT, Kind.BEAT])
def test_messages_without_end_take_bounded_memory(tmp_path: Path, kind: Kind) -> None:
    with two(tmp_path, 3) as honest, neighbor(honest) as loud:
        link, most = honest.link(3), 0
        stream = link.stream
        assert stream is not None
        big = message(words=LIMIT // 16)
        frame = (
            big
            if kind is Kind.DATA
            else Frame(kind, 3, ONE, b"" if kind is Kind.BEAT else b'{"said": 0}', big.payload[:0])
        )
        for k in range(300):
            loud.speak(frame)
            if k % 100 == 50:
                honest.exchange()
            with honest.endpoint.changed:
                mail = list(link._mail.get((3, ONE), ()))
            most = max(most, sum(own.payload.numel() for own in mail))
            assert len(mail) <= 16
        until(lambda: stream._next == 301)
        assert most <= LIMIT
        assert link.status is Status.UP


def test_a_payload_where_none_belongs_is_not_allocated(tmp_path: Path) -> None:
    with two(tmp_path, 3) as honest, neighbor(honest) as other:
        other.speak(Frame(Kind.BEAT, 3, ONE, payload=torch.zeros(8, dtype=torch.uint8)))
        until(lambda: honest.link(3).status is Status.DOWN)
        assert honest.link(3).why == "what arrives has a payload and is no message"


def test_who_takes_nothing_of_what_is_said_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_LEAST_UNSENT", LIMIT)
    with two(tmp_path, 3) as honest, neighbor(honest, listens=False):
        link = honest.link(3)
        frame = Frame(Kind.DATA, ONE, 3, b"x", torch.zeros(LIMIT, dtype=torch.uint8))
        stream, posted = link.stream, 0
        assert stream is not None
        while link.status is Status.UP:
            link.post(frame)
            posted += 1
            assert stream._posted - stream._sent <= 3 * LIMIT
            assert posted < 10_000
        assert link.why == "it does not take what we say"


def test_hundreds_of_streams_of_one_neighbor_are_two_at_most(tmp_path: Path) -> None:
    with two(tmp_path, 3) as honest:
        identity, others = honest.made(3), list[Neighbor]()
        for k in range(300):
            others.append(Neighbor(honest, identity))
            if k % 100 == 50:
                honest.exchange()
        until(lambda: honest.endpoint.refused["too-often"] + 100 >= 300)
        link = honest.link(3)
        until(lambda: sum(own.call.is_active() for own in others) <= 2)
        together([own.close for own in others])
        honest.endpoint._formed.clear()  # ten seconds later
        until(lambda: link.stream is None)
        with neighbor(honest):
            honest.exchange()


def test_who_asks_for_the_status_and_says_nothing_more_takes_nobody_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_module, "_MOST_CALLS", 8)
    with two(tmp_path, 3) as honest:
        observer, ends = honest.made(None), threading.Event()

        def nothing() -> Iterator[bytes]:
            ends.wait()
            yield from ()

        asking = channel(honest, observer)
        _, claim = Security(RUN).claim(None, ONE, "observer")
        calls = []
        for _ in range(30):
            call = asking.stream_unary(STATUS).future(nothing(), metadata=claim, timeout=SOON_S)
            assert json.loads(call.result())["agent"] == ONE
            calls.append(call)
        with neighbor(honest):
            honest.exchange()
        ends.set()
        asking.close()


@pytest.mark.parametrize("junk", ["[" + "[]," * 10**6 + "0]", '"' + "x" * (1 << 20) + '"'])
def test_a_header_of_megabytes_is_not_kept(tmp_path: Path, junk: str) -> None:
    with two(tmp_path, 3) as honest:
        link = honest.link(3)
        rude = Neighbor(honest, honest.made(3))
        with closing([rude]):
            hello = b'{"said": {"terms": {}, "session": 5, "junk": ' + junk.encode() + b"}}"
            rude.speak(Frame(Kind.HELLO, 3, ONE, hello))
            until(lambda: link.status is Status.DIFFERS)
            assert link.why.endswith(" characters beside a message: at most 65536")
            honest.exchange()
        with neighbor(honest) as other:
            told = b'{"about": "a merge", "step": 0, "junk": ' + junk.encode() + b"}"
            frame = message()
            header = b'{"said": ' + told + frame.header[frame.header.index(b', "entries"') :]
            other.speak(Frame(Kind.DATA, 3, ONE, header, frame.payload))
            other.speak(Frame(Kind.ACCEPT, 3, ONE, b'{"said": null}'))
            inboxes = ({}, {})  # type: ignore[var-annotated]
            together(
                [
                    lambda: honest.talk(ONE, [TWO, 3], inboxes[0]),
                    lambda: honest.talk(TWO, [ONE], inboxes[1]),
                ]
            )
            assert [*inboxes[0]] == [TWO]
            (refused,) = honest.hoods[ONE].incidents
            assert (refused.agent, refused.what) == (3, "refused")
            assert honest.hoods[ONE]._last.keys() == {TWO}


# --- what is left after long ---------------------------------------------------------------------


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
def test_two_thousand_exchanges_grow_nothing(tmp_path: Path) -> None:
    honest = Honest(tmp_path)
    with closing([honest]):
        links = honest.link(TWO), honest.hoods[TWO]._endpoint.to(ONE)
        for k in range(1, 2001):
            honest.exchange()
            if k % 50 == 0:
                epochs = [link.epoch for link in links]
                links[k % 100 == 0].reset("for a test")
                until(
                    lambda epochs=epochs: all(
                        link.epoch > before and link.status is Status.UP
                        for link, before in zip(links, epochs, strict=True)
                    )
                )
            if k == 200:
                before, memory = limits(), resident()
        falls_to(before)
        assert resident() - memory < 16 << 20
