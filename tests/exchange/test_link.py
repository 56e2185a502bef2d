"""An edge: who does not speak as we do is not let in, and what has ended leaves nothing behind."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.exchange.agents_on_graph import kill
from tests.exchange.threads import LISTEN, LONG_S, closing, together, until
from tests.fork_server import run

from dimat.errors import ConfigError
from dimat.exchange.network import endpoint as endpoint_module
from dimat.exchange.network import link as link_module
from dimat.exchange.network.endpoint import Endpoint
from dimat.exchange.network.link import Link, Rules, Status
from dimat.exchange.network.peers import FixedAddresses
from dimat.exchange.network.rpc import grpc
from dimat.exchange.network.security import Security
from dimat.exchange.network.stream import Stream
from dimat.exchange.wire import PREAMBLE, Frame, Kind, pack, read_head, said

RULES = Rules(timeout_s=LONG_S, limit_bytes=1 << 20)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_RETRY_S", 0.1)


def listening(own: int, place: FixedAddresses, rules: Rules = RULES) -> Endpoint:
    """An agent's endpoint, whose address is in the book."""
    endpoint = Endpoint(own, place, LISTEN, Security(), rules)
    assert endpoint.address is not None
    place[own] = endpoint.address
    return endpoint


class Stranger:
    """The other end of an edge to 0, without a link: it listens, and says what it likes."""

    def __init__(self, place: FixedAddresses, **claims: str) -> None:
        self.heard = list[Kind]()
        self.session, self._number, self.ended = 0, 0, threading.Event()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.channel = grpc.insecure_channel(place[0], [("grpc.use_local_subchannel_pool", 1)])
        _, claim = Security().claim(1, 0, claims.pop("life", "a stranger"))
        said = [(key, claims.get(key.removeprefix("dimat-"), value)) for key, value in claim]
        self.call = self.channel.stream_stream("/dimat.Agent/Exchange")(
            self._outgoing(), metadata=said
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _outgoing(self) -> Iterator[bytes]:
        while (piece := self._queue.get()) is not None:
            yield piece

    def _listen(self) -> None:
        try:
            for piece in self.call:
                head, header = read_head(piece, 0)
                if head.kind is Kind.HELLO:
                    self.session = Frame(head.kind, header=header).said["session"]
                self.heard.append(head.kind)
        except grpc.RpcError:
            pass
        self.ended.set()

    def greet(self) -> None:
        self.speak(said(Kind.HELLO, 1, 0, {"terms": {}, "session": 5}))
        until(lambda: self.session)

    def speak(self, frame: Frame, preamble: dict[int, int] | None = None) -> None:
        """Send a frame, with some of its preamble otherwise."""
        head, *pieces = frame.pieces(self._number, self.session)
        words = list(PREAMBLE.unpack_from(head))
        for at, value in (preamble or {}).items():
            words[at] = value
        self._number += 1
        for piece in (PREAMBLE.pack(*words) + frame.header, *pieces):
            self._queue.put(piece)

    def close(self) -> None:
        self._queue.put(None)
        self.call.cancel()
        self.channel.close()


@pytest.mark.parametrize(
    ("preamble", "why"),
    [
        ({0: 7}, "what arrives is no message of this version of dimat"),
        ({1: 42}, "what arrives is no message of this version of dimat"),
        ({4: 1 << 50}, "what arrives is no message of this version of dimat"),
        ({5: 1 << 50}, f"a message of {1 << 50} bytes is refused: at most {1 << 20}"),
        ({5: (1 << 20) + 8}, "a message of 1048584 bytes is refused"),
        ({1: int(Kind.HELLO)}, "agent 1 greets in the midst of what it says"),
        ({6: 0}, "a message that was said before, or in another conversation"),
        ({6: 2}, "a message that was said before, or in another conversation"),
        ({7: 5}, "a message that was said before, or in another conversation"),
    ],
)
def test_a_stranger_s_frame_breaks_the_edge_before_anything_is_allocated_for_it(
    monkeypatch: pytest.MonkeyPatch, preamble: dict[int, int], why: str
) -> None:
    place, taken, memory = FixedAddresses(), list[int](), Stream._memory
    us = listening(0, place)
    with closing([us]):
        link = us.to(1)
        other = Stranger(place)
        with closing([other]):
            other.greet()
            until(lambda: link.status is Status.UP)

            def counted(self: Stream, size: int) -> torch.Tensor:
                taken.append(size)
                return memory(self, size)

            monkeypatch.setattr(Stream, "_memory", counted)
            other.speak(Frame(Kind.DATA, 1, 0), preamble)
            until(lambda: link.status is Status.DOWN)
            monkeypatch.undo()
        assert why in link.why
        assert {*taken} <= {0}


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (Frame(Kind.BYE, 1, 0), "agent 1 does not begin with a greeting"),
        (said(Kind.HELLO, 1, 0, [1]), "agent 1 does not begin with a greeting"),
        (said(Kind.HELLO, 1, 0, {"session": -1}), "agent 1 does not begin with a greeting"),
        (said(Kind.HELLO, 1, 0, {"session": "1"}), "agent 1 does not begin with a greeting"),
        (Frame(Kind.HELLO, 1, 0, b"\xff"), "the header of a message is no JSON"),
        (Frame(Kind.HELLO, 1, 0, b"[" * 99999), "the header of a message is no JSON"),
        (said(Kind.HELLO, 1, 0, {"session": 1}), "agent 1 does not say what its settings are"),
        (
            said(Kind.HELLO, 1, 0, {"session": 1, "terms": {"a": "1"}}),
            "other settings: 'a' is 1 there and None",
        ),
    ],
)
def test_who_does_not_greet_is_not_talked_to_and_one_who_does_is_let_in_later(
    frame: Frame, why: str
) -> None:
    place = FixedAddresses()
    us = listening(0, place)
    with closing([us]):
        link = us.to(1)
        rude, other = Stranger(place), None
        with closing([rude]):
            until(lambda: rude.heard)  # so what it says is not the session's, but is no greeting
            rude.speak(frame, {7: us.to(1).stream.session} if us.to(1).stream else None)
            until(lambda: link.status is Status.DIFFERS)
            assert why in link.why
        other = Stranger(place)
        with closing([other]):
            other.greet()
            until(lambda: link.status is Status.UP)
            other.speak(Frame(Kind.BYE, 1, 0))
            until(lambda: link.status is Status.LEFT)


def pair(place: FixedAddresses) -> tuple[Endpoint, Endpoint, Link, Link]:
    one, two = listening(0, place), listening(1, place)
    here, there = one.to(1), two.to(0)
    until(lambda: here.status is there.status is Status.UP)
    return one, two, here, there


def test_what_is_posted_in_one_epoch_never_arrives_in_another() -> None:
    one, two, here, there = pair(FixedAddresses())
    with closing([one, two]):
        header, payload = pack({"x": torch.ones(2)}, None)
        here.post(Frame(Kind.DATA, 0, 1, header, payload), 1)
        until(lambda: there.holds(0, 1))
        here.reset("for a test")
        here.post(Frame(Kind.DATA, 0, 1, b"late"), 1)
        until(lambda: here.epoch > 1 and here.status is there.status is Status.UP)
        assert not there.holds(0, 1)
        here.post(Frame(Kind.DATA, 0, 1, b"dropped"), 1)
        here.post(Frame(Kind.DATA, 0, 1, b"sent"), here.epoch)
        until(lambda: there.holds(0, 1))
        assert there.take(0, 1).header == b"sent"
        assert not there.holds(0, 1)


def test_a_link_lives_through_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, here, there = pair(FixedAddresses())
    with closing([one, two]):
        memory, failed = Stream._memory, threading.Event()

        def none(self: Stream, size: int) -> torch.Tensor:
            if size:
                failed.set()
                raise MemoryError(f"no {size} bytes")
            return memory(self, size)

        header, payload = pack({"x": torch.ones(2)}, None)
        monkeypatch.setattr(Stream, "_memory", none)
        here.post(Frame(Kind.DATA, 0, 1, header, payload))
        until(failed.is_set)
        monkeypatch.undo()
        until(lambda: min(here.epoch, there.epoch) > 1)
        until(lambda: here.status is there.status is Status.UP)


@pytest.mark.parametrize(("sender", "to"), [(2, 0), (1, 3)])
def test_who_speaks_for_another_is_not_listened_to(sender: int, to: int) -> None:
    place = FixedAddresses()
    us = listening(0, place)
    with closing([us]):
        link, other = us.to(1), Stranger(place)
        with closing([other]):
            other.greet()
            until(lambda: link.status is Status.UP)
            other.speak(Frame(Kind.DATA, sender, to))
            until(lambda: link.status is Status.DOWN)
            assert link.why == f"agent 1 speaks for {sender} to {to}"
            assert not link.holds(sender, to)


def test_of_an_agent_that_is_far_ahead_the_newest_are_kept() -> None:
    one, two, here, there = pair(FixedAddresses())
    with closing([one, two]):
        for k in range(20):
            here.post(Frame(Kind.DATA, 0, 1, b"%d" % k))
        one.close()
        until(lambda: there.status is Status.LEFT)
        assert [there.take(0, 1).header for _ in range(16)] == [b"%d" % k for k in range(4, 20)]
        assert not there.holds(0, 1)


def test_messages_that_nobody_looks_at_take_no_more_memory_than_two() -> None:
    one, two, here, there = pair(FixedAddresses())
    with closing([one, two]):
        payload = torch.zeros(RULES.limit_bytes, dtype=torch.uint8)
        for k in range(5):
            here.post(Frame(Kind.DATA, 0, 1, b"%d" % k, payload))
        here.post(Frame(Kind.DATA, 0, 1, b"small"))
        one.close()
        until(lambda: there.status is Status.LEFT)
        kept = []
        while there.holds(0, 1):
            kept.append(there.take(0, 1))
        assert [frame.header for frame in kept] == [b"4", b"small"]
        assert sum(frame.payload.numel() for frame in kept) <= RULES.limit_bytes


def test_a_small_message_that_waits_keeps_no_memory_of_a_large_one() -> None:
    size = RULES.limit_bytes
    stream = Stream(beat_s=LONG_S, limit_bytes=size)
    large = Frame(Kind.DATA, 0, 1, b"{}", torch.zeros(size, dtype=torch.uint8))
    small = Frame(Kind.DATA, 0, 1, b"{}", torch.zeros(8, dtype=torch.uint8))
    frames = enumerate([large, small] * 16)
    stream.open((x for k, own in frames for x in own.pieces(k, stream.session)), lambda: None)
    tracemalloc.start()
    try:
        kept = []
        for _ in range(16):
            stream.receive()  # of which nothing is kept
            kept.append(stream.receive())
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {frame.payload.numel() for frame in kept} == {8}
    assert held < 3 * size


@pytest.mark.parametrize("cost_s", [0.001, 10.0])
def test_beats_and_messages_that_nobody_has_room_for_are_read_at_a_tenth_of_a_core(
    monkeypatch: pytest.MonkeyPatch, cost_s: float
) -> None:
    rests, clock = list[float](), count()
    rest_s = min(9 * cost_s, RULES.beat_s)  # longer would be taken for silence
    told = SimpleNamespace(
        time=time.time, thread_time=lambda: cost_s * next(clock), sleep=rests.append
    )
    monkeypatch.setattr(link_module, "time", told)
    place = FixedAddresses()
    own = listening(0, place)
    link = own.to(1)
    with closing([own, stranger := Stranger(place)]):
        stranger.greet()
        until(lambda: link.status is Status.UP)
        header, payload = pack({"x": torch.zeros(2)}, {})
        for k, (frame, rested) in enumerate(
            [(Frame(Kind.BEAT), 1)] * 3
            + [(Frame(Kind.DATA, 1, 0, header, payload), 0)] * 16
            + [(Frame(Kind.DATA, 1, 0, header, payload), 1)] * 4
            + [(Frame(Kind.BEAT, to=2), 1)]
        ):
            before = len(rests)
            stranger.speak(frame)
            until(lambda k=k: link.stream is not None and link.stream._next == k + 2)
            until(lambda n=before + rested: len(rests) >= n)
        assert rests == pytest.approx([rest_s] * 8)
        while link.holds(1, 0):
            link.take(1, 0)
        stranger.speak(Frame(Kind.DATA, 1, 0, header, payload))  # there is room again
        until(lambda: link.holds(1, 0))
        assert len(rests) == 8


def test_an_edge_forms_when_somebody_answers_at_an_address_where_nobody_did() -> None:
    place = FixedAddresses()
    one, two = listening(0, place), listening(1, place)
    with closing([one, two]):
        there, place[0] = place[0], "127.0.0.1:1"  # of nobody
        low, high = one.to(1), two.to(0)
        until(lambda: high.why != "not connected yet")
        assert high.why == "nobody listens there"
        place[0] = there
        until(lambda: low.status is high.status is Status.UP)


@pytest.mark.parametrize("address", ["203.0.113.7:0", "no.such.name.invalid:0", "[::1:0", "x"])
def test_an_address_that_is_not_here_is_said_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match="setting 'listen'"):
        Endpoint(0, FixedAddresses(), address, Security(), RULES)


def test_a_port_that_is_taken_is_said_at_once() -> None:
    place = FixedAddresses()
    us = listening(0, place)
    with closing([us]), pytest.raises(ConfigError, match="the port is taken"):
        Endpoint(1, place, us.address, Security(), RULES)


def test_an_edge_lives_through_a_mistake_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, here, there = pair(FixedAddresses())

    def broken() -> dict[str, object]:
        raise ZeroDivisionError("our own mistake")

    with closing([one, two]):
        failed = threading.Event()
        turn = here.turn

        def noted(status: Status, why: str) -> None:
            turn(status, why)
            if "our own mistake" in why:
                failed.set()

        monkeypatch.setattr(here, "turn", noted)
        monkeypatch.setattr(here, "_greeting", broken)
        here.status = Status.UP
        here.reset("for a test")
        here.epoch = 0  # so that why it does not form is told
        until(failed.is_set)
        monkeypatch.undo()
        until(lambda: here.status is there.status is Status.UP)


# --- who is let in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "cause"),
    [
        ({"run": "another"}, "other-run"),
        ({"to": "3"}, "other-agent"),
        ({"to": "x"}, "other-agent"),
        ({"from": "7"}, "no-neighbor"),
        ({"from": "observer"}, "no-neighbor"),
        ({"life": "x" * 65}, "unreadable"),
    ],
)
def test_who_calls_another_or_is_no_neighbor_is_refused_and_counted(
    claims: dict[str, str], cause: str
) -> None:
    place = FixedAddresses()
    us = listening(0, place)
    with closing([us]):
        us.to(1)
        other = Stranger(place, **claims)
        with closing([other]):
            assert other.call.code() is grpc.StatusCode.PERMISSION_DENIED
            assert other.call.details().startswith(f"{cause}: ")
        assert us.refused == {cause: 1}


def test_who_is_to_be_dialed_is_told_so() -> None:
    place = FixedAddresses()
    us = listening(0, place)
    with closing([us]):
        us.agent = 2  # whose neighbor 1 has an address
        place[1] = "127.0.0.1:1"
        us.to(1)
        other = Stranger(place, to="2")
        with closing([other]):
            assert other.call.details() == "not-to-dial: agent 2 dials agent 1, by its peers.yaml"


def test_the_first_of_two_living_processes_of_one_number_stays() -> None:
    place = FixedAddresses()
    one, two, here, there = pair(place)
    with closing([one, two]):
        other = Stranger(place)
        with closing([other]):
            assert other.call.details().startswith("twice: agent 1 is here already")
        assert here.epoch == there.epoch == 1
        assert here.status is there.status is Status.UP


def test_a_process_that_is_gone_without_a_word_makes_room_for_its_next_life() -> None:
    place = FixedAddresses()
    us = listening(0, place)
    with closing([us]):
        link, first = us.to(1), Stranger(place)
        first.greet()  # and then it sends no beat: it is gone, and TCP does not know
        until(lambda: link.status is Status.UP)
        second = Stranger(place, life="another")
        with closing([first, second]):
            second.greet()
            until(lambda: link.epoch == 2 and link.status is Status.UP)


def test_who_calls_again_and_again_is_let_in_so_often_and_no_more() -> None:
    place = FixedAddresses()
    us = listening(0, place)
    with closing([us]):
        us.to(1)
        us._formed[1] = endpoint_module.deque(
            [endpoint_module.time.monotonic()] * endpoint_module._MOST_FORMED,
            endpoint_module._MOST_FORMED,
        )
        other = Stranger(place)
        with closing([other]):
            assert other.call.details().startswith("too-often: ")


# --- what is left -------------------------------------------------------------------------------


def test_memory_is_used_again_once_nobody_looks_at_what_was_in_it() -> None:
    stream = Stream(beat_s=1.0, limit_bytes=1 << 20)
    first = stream._memory(64)
    view, place = first[8:16].view(torch.int32), first.data_ptr()
    assert stream._memory(64).data_ptr() != place  # somebody looks
    third = stream._memory(32)
    again = third.data_ptr()
    del third
    assert stream._memory(32).data_ptr() == again
    view.fill_(7)  # it is still whoever's that was
    assert first[8:12].tolist() == [7, 0, 0, 0]


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows")
def test_an_edge_that_forms_anew_leaves_no_threads_and_no_connections() -> None:
    one, two, here, there = pair(FixedAddresses())

    def form_anew(times: int) -> None:
        for k in range(times):
            epochs = here.epoch, there.epoch
            (here if k % 2 else there).reset("for a test")
            until(lambda e=epochs: here.epoch > e[0] and there.epoch > e[1])  # type: ignore[misc]
            until(lambda: here.status is there.status is Status.UP)

    with closing([one, two]):
        form_anew(4)  # gRPC has threads that it keeps
        before, files = threads(), len(os.listdir("/proc/self/fd"))
        form_anew(20)
        until(lambda: threads() <= before + 4)
        until(lambda: len(os.listdir("/proc/self/fd")) <= files + 4)


def test_both_say_goodbye_at_once_and_neither_waits_for_silence() -> None:
    for _ in range(5):
        one, two, *_ = pair(FixedAddresses())
        together([one.close, two.close])  # silence would be a deadlock


def test_goodbye_to_one_who_never_came_or_does_not_answer_takes_no_longer_than_silence() -> None:
    place = FixedAddresses()
    us = listening(0, place, Rules(timeout_s=2))
    us.to(2)
    link, other = us.to(1), Stranger(place)
    other.greet()
    until(lambda: link.status is Status.UP)
    together([us.close])
    until(lambda: other.heard[-1] is Kind.BYE)
    assert other.heard[0] is Kind.HELLO
    other.close()


def test_one_that_was_killed_is_lost_at_once() -> None:
    one, two, here, _ = pair(FixedAddresses())
    with closing([one]):
        kill(two)
        until(lambda: here.status is Status.DOWN)


PROCESS = """
import sys, time
from dimat.exchange.network.endpoint import Endpoint
from dimat.exchange.network.link import Rules, Status
from dimat.exchange.network.peers import FixedAddresses
from dimat.exchange.network.security import Security
place = FixedAddresses({0: sys.argv[1], 2: "127.0.0.1:1"})
endpoint = Endpoint(3, place, "127.0.0.1:0", Security(), Rules({}, 300))
link = endpoint.to(int(sys.argv[2]))
while sys.argv[2] == "0" and link.status is not Status.UP:
    time.sleep(0.01)
"""


def test_a_process_that_ends_while_its_links_live_says_goodbye_and_ends_as_it_means_to() -> None:
    cases: list[tuple[str, str, int]] = [
        ("", "0", 0),
        ("sys.exit(3)", "2", 3),  # nobody is there
        ("raise ValueError('lost')", "0", 1),
    ]

    def check(end: str, other: str, code: int) -> Callable[[], None]:
        def work() -> None:
            place = FixedAddresses()
            us = listening(0, place)
            with closing([us]):
                link = us.to(3)
                own = run([sys.executable, "-c", PROCESS + end, place[0], other])
                assert own.returncode == code, own.stderr
                assert ("lost" in own.stderr) is (code == 1)
                assert "terminate" not in own.stderr
                assert "Fatal" not in own.stderr
                if other == "0":
                    until(lambda: link.status is Status.LEFT)

        return work

    together([check(*case) for case in cases])
