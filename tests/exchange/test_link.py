"""An edge: who does not speak as we do is not let in, and what has ended leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.exchange.threads import HOST, LONG_S, board, closing, together, until
from tests.fork_server import run

from dimat.errors import ConfigError
from dimat.exchange.network import link as link_module
from dimat.exchange.network import meeting
from dimat.exchange.network.buffers import Pool
from dimat.exchange.network.link import Link, Rules, Status
from dimat.exchange.network.links import Links
from dimat.exchange.network.meeting import meet
from dimat.exchange.network.pipe import Broken
from dimat.exchange.network.rendezvous import Directory
from dimat.exchange.network.wire import PREAMBLE, Frame, Kind, pack, said

RULES = Rules(timeout_s=LONG_S, limit_bytes=1 << 20)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_RETRY_S", 0.1)


def links(own: int, place: Directory, rules: Rules = RULES) -> Links:
    return Links(own, place.another(), HOST, rules)


class Stranger:
    """The other end of an edge to 0, without a link: it listens, and says what it likes."""

    def __init__(self, place: Directory) -> None:
        pipe = meet(place.another(), 1, 0, HOST, lambda: True)
        assert pipe is not None
        self.pipe, self.heard = pipe, list[int]()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        preamble = torch.empty(PREAMBLE, dtype=torch.int64)
        with contextlib.suppress(Broken):
            while True:
                self.pipe.receive(preamble, LONG_S)
                if size := int(preamble[4]):
                    self.pipe.receive(torch.empty(size, dtype=torch.uint8), LONG_S)
                self.heard.append(int(preamble[1]))

    def greet(self) -> None:
        self.speak(said(Kind.HELLO, 1, 0, {"terms": {}}))

    def speak(self, frame: Frame, preamble: dict[int, int] | None = None) -> None:
        """Send a frame, with some of its preamble otherwise."""
        first = frame.preamble()
        for at, value in (preamble or {}).items():
            first[at] = value
        self.pipe.send(first, LONG_S)
        if frame.header:
            self.pipe.send(torch.frombuffer(bytearray(frame.header), dtype=torch.uint8), LONG_S)


@pytest.mark.parametrize(
    ("preamble", "why"),
    [
        ({0: 7}, "what arrives is no message of this version of dimat"),
        ({1: 42}, "what arrives is no message of this version of dimat"),
        ({4: 1 << 50}, "what arrives is no message of this version of dimat"),
        ({5: 1 << 50}, f"a message of {1 << 50} bytes is refused: at most {1 << 20}"),
        ({5: (1 << 20) + 8}, "a message of 1048584 bytes is refused"),
        ({1: int(Kind.HELLO)}, "agent 1 greets in the midst of what it says"),
    ],
)
def test_a_stranger_s_frame_breaks_the_edge_before_anything_is_allocated_for_it(
    monkeypatch: pytest.MonkeyPatch, preamble: dict[int, int], why: str
) -> None:
    place, taken = board(), []
    monkeypatch.setattr(Pool, "take", lambda self, size: taken.append(size))
    us = links(0, place)
    with closing([us]):
        link = us.to(1)
        other = Stranger(place)
        other.greet()
        until(lambda: link.status is Status.UP)
        other.speak(Frame(Kind.DATA, 1, 0), preamble)
        until(lambda: link.status is Status.DOWN)
        assert why in link.why
        assert taken == []


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (Frame(Kind.DATA, 1, 0), "agent 1 does not begin with a greeting"),
        (said(Kind.HELLO, 1, 0, [1]), "agent 1 does not begin with a greeting"),
        (Frame(Kind.HELLO, 1, 0, b"\xff"), "the header of a message is no JSON"),
        (Frame(Kind.HELLO, 1, 0, b"[" * 99999), "the header of a message is no JSON"),
        (said(Kind.HELLO, 1, 0, {}), "agent 1 does not say what its settings are"),
        (said(Kind.HELLO, 1, 0, {"terms": {"a": "1"}}), "other settings: 'a' is 1 there and None"),
    ],
)
def test_who_does_not_greet_is_not_talked_to_and_one_who_does_is_let_in_later(
    frame: Frame, why: str
) -> None:
    place = board()
    us = links(0, place)
    with closing([us]):
        link = us.to(1)
        Stranger(place).speak(frame)
        until(lambda: link.status is Status.DIFFERS)
        assert why in link.why
        other = Stranger(place)
        other.greet()
        until(lambda: link.status is Status.UP)
        other.speak(Frame(Kind.BYE, 1, 0))


def pair(place: Directory) -> tuple[Links, Links, Link, Link]:
    one, two = links(0, place), links(1, place)
    here, there = one.to(1), two.to(0)
    until(lambda: here.status is there.status is Status.UP)
    return one, two, here, there


def test_what_is_posted_in_one_epoch_never_arrives_in_another() -> None:
    one, two, here, there = pair(board())
    with closing([one, two]):
        header, payload = pack({"x": torch.ones(2)}, None, Pool())
        here.post(Frame(Kind.DATA, 0, 1, header, payload), 1)
        until(lambda: there.holds(0, 1))
        here.reset("for a test")
        here.post(Frame(Kind.DATA, 0, 1, b"late"), 1)
        until(lambda: here.carries(2) and there.carries(2))
        assert not there.holds(0, 1)
        here.post(Frame(Kind.DATA, 0, 1, b"dropped"), 1)
        here.post(Frame(Kind.DATA, 0, 1, b"sent"), 2)
        until(lambda: there.holds(0, 1))
        assert there.take(0, 1).header == b"sent"
        assert not there.holds(0, 1)


def test_a_link_lives_through_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Pool, size: int) -> torch.Tensor:
        raise MemoryError(f"no {size} bytes")

    one, two, here, there = pair(board())
    with closing([one, two]):
        header, payload = pack({"x": torch.ones(2)}, None, Pool())
        monkeypatch.setattr(Pool, "take", none)
        here.post(Frame(Kind.DATA, 0, 1, header, payload))
        until(lambda: there.status is Status.DOWN)
        assert there.why == "no 8 bytes"
        monkeypatch.undo()
        until(lambda: here.carries(2) and there.carries(2))


@pytest.mark.parametrize(("sender", "to"), [(2, 0), (1, 3)])
def test_who_speaks_for_another_is_not_listened_to(sender: int, to: int) -> None:
    place = board()
    us = links(0, place)
    with closing([us]):
        link = us.to(1)
        other = Stranger(place)
        other.greet()
        until(lambda: link.status is Status.UP)
        other.speak(Frame(Kind.DATA, sender, to))
        until(lambda: link.status is Status.DOWN)
        assert link.why == f"agent 1 speaks for {sender} to {to}"
        assert not link.holds(sender, to)


@pytest.mark.parametrize(("what", "dropped"), [("agent", 4), ("rank", 0)])
def test_of_an_agent_that_is_far_ahead_the_newest_are_kept_and_of_a_rank_all(
    what: str, dropped: int
) -> None:
    place = board()
    one, two = (Links(k, place.another(), HOST, RULES, what=what) for k in (0, 1))
    with closing([one, two]):
        here, there = one.to(1), two.to(0)
        until(lambda: here.status is there.status is Status.UP)
        for k in range(20):
            here.post(Frame(Kind.DATA, 0, 1, b"%d" % k))
        here.close()
        until(lambda: there.status is Status.LEFT)
        kept = [there.take(0, 1).header for _ in range(20 - dropped)]
        assert kept == [b"%d" % k for k in range(dropped, 20)]
        assert not there.holds(0, 1)


def test_an_edge_forms_when_the_address_is_there_that_was_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "JOIN_S", 1.0)
    place = board()
    one, two = links(0, place), links(1, place)
    with closing([one, two]):
        one._address = "203.0.113.7"  # of nobody
        here, there = one.to(1), two.to(0)
        until(lambda: here.why.startswith("no connection"))
        one._address = HOST
        until(lambda: here.status is there.status is Status.UP)


@pytest.mark.parametrize("address", ["203.0.113.7", "no such name", "x" * 99])
def test_an_interface_that_is_not_here_is_said_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match=f"interface': {address} is not an address of this"):
        Links(0, board(), address, RULES)


def test_an_edge_lives_through_a_mistake_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, here, there = pair(board())

    def broken() -> dict[str, object]:
        raise ZeroDivisionError("our own mistake")

    with closing([one, two]):
        monkeypatch.setattr(here, "_greeting", broken)
        here.reset("for a test")
        until(lambda: here.why == "our own mistake")
        monkeypatch.undo()
        until(lambda: here.status is there.status is Status.UP)


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows")
def test_an_edge_that_forms_anew_leaves_no_threads_and_no_connections() -> None:
    one, two, here, there = pair(board())
    with closing([one, two]):
        before, files = threads(), len(os.listdir("/proc/self/fd"))
        for epoch in range(2, 8):
            (here if epoch % 2 else there).reset("for a test")
            until(lambda e=epoch: here.carries(e) and there.carries(e))  # type: ignore[misc]
        until(lambda: threads() <= before)
        until(lambda: len(os.listdir("/proc/self/fd")) <= files)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("link")]


def test_both_say_goodbye_at_once_and_neither_waits_for_silence() -> None:
    for _ in range(5):
        one, two, *_ = pair(board())
        together([one.close, two.close])  # silence would be a deadlock


def test_goodbye_to_one_who_never_came_or_does_not_answer_takes_no_longer_than_silence() -> None:
    place = board()
    us = links(0, place, Rules(timeout_s=2))
    us.to(1)
    us.to(2)
    other = Stranger(place)
    other.greet()
    until(lambda: us.to(1).status is Status.UP)
    together([us.close])
    until(lambda: other.heard[-1] == Kind.BYE)
    assert other.heard[0] == Kind.HELLO
    assert not us.lingering


PROCESS = """
import sys, time
from dimat.exchange.network.rendezvous import Directory
from dimat.exchange.network.link import Rules, Status
from dimat.exchange.network.links import Links
links = Links(1, Directory("127.0.0.1", int(sys.argv[1]), sys.argv[2]), "127.0.0.1", Rules({}, 300))
link = links.to(int(sys.argv[3]))
while sys.argv[3] == "0" and link.status is not Status.UP:
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
            place = board()
            us = links(0, place)
            with closing([us]):
                link = us.to(1)
                command = [sys.executable, "-c", PROCESS + end]
                own = run([*command, str(place.port), place.prefix, other])
                assert own.returncode == code, own.stderr
                assert ("lost" in own.stderr) is (code == 1)
                assert "terminate" not in own.stderr
                if other == "0":
                    until(lambda: link.status is Status.LEFT)

        return work

    together([check(*case) for case in cases])
