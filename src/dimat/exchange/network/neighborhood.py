"""One agent among neighbors that may be dead, slow, frozen, or back: no one is waited for in vain.

An exchange on an edge counts once both ends have accepted what the other said: who has only one
half of that goes on without it, and says so. Two ends can never be sure that both know: what one
end counted and the other did not comes out when the edge forms the next time, and is recorded.

Whoever has missed a neighbor in one step of a round leaves it alone for the rest of that round:
both are at a first step when they talk again, so the steps of two agents never stay out of phase.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dimat.errors import StructureError, shown
from dimat.exchange.incidents import Incident
from dimat.exchange.network.accounts import Accounts
from dimat.exchange.network.endpoint import Endpoint
from dimat.exchange.network.link import Link, Rules, Status
from dimat.exchange.network.peers import Addresses
from dimat.exchange.network.security import Security
from dimat.exchange.network.silence import Silence
from dimat.exchange.network.status import StatusReport
from dimat.exchange.protocol import Inbox, Message, Result, Step, Talk, Traffic
from dimat.exchange.wire import Frame, Kind, check_brief, pack, said, unpack

__all__ = ["Incident", "Neighborhood", "Tamper"]

_MOST_PATIENCE = 10  # times one's own, with who waits for others


Tamper = Callable[[bytes, torch.Tensor], tuple[bytes, torch.Tensor]]


@dataclass
class _Half:
    """What is still open with one neighbor in one step; mutual if both speak."""

    link: Link
    epoch: int
    mutual: bool
    awaits: set[Kind]
    message: Message | None = None
    since: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=time.monotonic)


class Neighborhood:
    """The transport of one agent that goes on without those of its neighbors who are missing.

    Args:
        agent: Its number.
        addresses: Where the agents are found.
        listen: HOST:PORT where neighbors find us; port 0: any that is free. None: we only dial.
        security: How we prove who we are; None: plaintext, for agents on one machine.
        rules: What all its edges have in common.
        patience_s: The longest to wait for a neighbor that lives and says nothing.
        device: Where messages are wanted.

    Attributes:
        saying: What goes along with every message and greeting, JSON by name.
        quiet: Whether neighbors are not to mix what we say.
        heard: What went along with what each neighbor said in the last run.
        asked: Whom the agent was to hear in the last run, whether it did or not.
        incidents: What did not count in the last run.
        report: What those who may ask are told of us; its owner says how far the work is.
        tamper: Changes what is sent to a neighbor the next time: for rehearsals of faults.
    """

    def __init__(
        self,
        agent: int,
        addresses: Addresses,
        listen: str | None,
        security: Security | None = None,
        rules: Rules | None = None,
        *,
        patience_s: float = 600.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.agents: Sequence[int] = (agent,)
        self.saying: Mapping[str, Any] = {}
        self.quiet = False
        self.heard: dict[int, Mapping[str, Any]] = {}
        self.asked: set[int] = set()
        self.incidents: list[Incident] = []
        self.tamper: dict[int, Tamper] = {}
        self._agent, self._device, self._patience_s = agent, device, patience_s
        self._about = ""
        self._accounts = Accounts()
        self._counted: list[Link] = []
        self._last: dict[int, tuple[int, Mapping[str, Any]]] = {}
        self.report = StatusReport()
        told = self.report.encoded
        self._endpoint = Endpoint(
            agent, addresses, listen, security or Security(), rules, self._greeting, told
        )
        self._silence = Silence(self._endpoint)

    @property
    def address(self) -> str | None:
        """HOST:PORT where neighbors find us; None if we only dial."""
        return self._endpoint.address

    @property
    def connections(self) -> str:
        """What protects the connections, for people and records."""
        return self._endpoint.security.kind

    @property
    def refused(self) -> Mapping[str, int]:
        """Number of calls that were refused before anything was read, by cause."""
        return dict(self._endpoint.refused)

    def tell(self, event: Callable[..., object]) -> None:
        """Have a function called with the kind and the facts of what happens to edges and calls."""
        self._endpoint.event = event

    @property
    def status(self) -> Mapping[str, Any]:
        """What those who may ask are told of us, now."""
        return self.report.of(self._endpoint)

    def run(
        self,
        talks: Mapping[int, Talk[Result]],
        traffic: Mapping[int, Traffic],
        about: str = "a merge",
    ) -> dict[int, Result]:
        """Run the agent's talk to its end; inboxes lack those whose exchange did not count.

        Args:
            talks: The agent's.
            traffic: Its counter.
            about: What is talked about, alike at both ends: talks have steps of the same numbers,
                and what is said in one is never taken for what is said in another.
        """
        self.incidents, self.heard, self.asked, self._counted = [], {}, set(), []
        self._about = about
        talk, own = talks[self._agent], traffic[self._agent]
        number, inbox = 0, None
        while True:
            start = time.perf_counter()
            try:
                step = next(talk) if inbox is None else talk.send(inbox)
            except StopIteration as stop:
                return {self._agent: stop.value}
            finally:
                own.busy_s += time.perf_counter() - start
            inbox = self._exchange(step, number, own)
            number += 1

    def await_neighbors(
        self,
        neighbors: Collection[int],
        wait_s: float,
        heed: Callable[[Mapping[int, str]], object] = lambda why: None,
    ) -> list[int]:
        """Wait until edges to all have formed; those that have not after so many seconds.

        Who has said goodbye is not waited for: it may have come and gone before we looked.

        Args:
            neighbors: Numbers of agents.
            wait_s: Seconds.
            heed: Called with what keeps the edges from forming, by agent, when it has changed.
        """
        links = [self._endpoint.to(j) for j in neighbors]
        end, known = time.monotonic() + wait_s, dict[int, str]()
        while True:
            with self._endpoint.changed:
                away = [link for link in links if link.status is not Status.UP]
                left = end - time.monotonic()
                over = left <= 0 or all(link.status is Status.LEFT for link in away)
                why = {link.them: link.why for link in away}
                if why == known and not over:
                    self._endpoint.changed.wait(min(left, 1.0))
                    continue
            if why != known:
                heed(why)
                known = why
            if over:
                return list(why)

    def news(self) -> dict[int, Mapping[str, Any]]:
        """The last that each neighbor within reach has said of itself."""
        with self._endpoint.changed:
            up = {j: x for j, x in self._endpoint.all().items() if x.status is Status.UP}
            return {
                j: self._last[j][1] if self._last.get(j, (0,))[0] == link.epoch else link.greeting
                for j, link in up.items()
            }

    def cut(self, neighbor: int) -> None:
        """Break an edge; it forms anew."""
        self._endpoint.to(neighbor).reset("it was cut")

    def take_back(self) -> None:
        """What counted in the last run was not used after all: neighbors alone have.

        That comes out when the edges form the next time.
        """
        with self._endpoint.changed:
            for link in self._counted:
                self._accounts.count(link, -1)
            self._counted = []

    def close(self) -> None:
        """Say goodbye: the neighbors go on without waiting."""
        self._endpoint.close()

    # --- one step -----------------------------------------------------------------------------

    def _exchange(self, step: Step, number: int, traffic: Traffic) -> Inbox:
        self.asked.update(step.hear)
        halves = self._begin(step, self._silence.last(step.hear, hesitate=number == 0))
        self._send(step, number, halves, traffic)
        self._endpoint.waiting = True
        try:
            while any(half.awaits for half in halves.values()):
                with self._endpoint.changed:
                    arrived = self._arrived(halves)
                    # An answer may have been the last that was awaited.
                    if not arrived and any(half.awaits for half in halves.values()):
                        self._wait(halves)
                for j, frame in arrived:
                    self._take(j, halves[j], frame, step, number, traffic)
        finally:
            self._endpoint.waiting = False
        return self._inbox(step, halves)

    def _wait(self, halves: Mapping[int, _Half]) -> None:
        """Wait for something to happen; give up who says nothing, unless it waits for others."""
        self._endpoint.changed.wait(min(self._patience_s / 10, 1.0))
        now = time.monotonic()
        for half in halves.values():
            if half.link.waits and now - half.began < _MOST_PATIENCE * self._patience_s:
                half.since = now
            if half.awaits and now - half.since > self._patience_s:
                half.link.reset(f"nothing for {self._patience_s:g} s, though it lives")
                self._silence.add(half.link.them)

    def _begin(self, step: Step, silent: Collection[int]) -> dict[int, _Half]:
        """For each neighbor what is to come, and from which epoch of its link."""
        halves: dict[int, _Half] = {}
        mutual = {*step.send} & {*step.hear}
        missed = {own.agent for own in self.incidents if own.uncounted and own.what != "quiet"}
        with self._endpoint.changed:
            for j in {*step.send, *step.hear} - (mutual & missed):
                link = self._endpoint.to(j)
                self._compare_counts(j, link)
                if j in silent:
                    why = "it has said nothing since it was given up"
                    self.incidents.append(Incident(j, "lost", why))
                    continue
                awaits = {Kind.DATA} if j in step.hear else set()
                if j in mutual:
                    awaits |= {Kind.ACCEPT}  # one who only listens accepts nothing
                halves[j] = _Half(link, link.epoch, j in mutual, awaits)
                if awaits and link.status is not Status.UP:
                    self._lose(j, halves[j])  # what it said before it was lost is of no use
        return halves

    def _send(self, step: Step, number: int, halves: Mapping[int, _Half], traffic: Traffic) -> None:
        packed: dict[int, tuple[bytes, torch.Tensor]] = {}
        own = {**self.saying, "about": self._about, "step": number, "quiet": self.quiet}
        for j, message in step.send.items():
            if j not in halves or not halves[j].link.carries(halves[j].epoch):
                continue
            if id(message) not in packed:
                packed[id(message)] = pack(message, own)
            header, payload = packed[id(message)]
            if j in self.tamper:
                header, payload = self.tamper.pop(j)(header, payload)
            frame = Frame(Kind.DATA, self._agent, j, header, payload)
            halves[j].link.post(frame, halves[j].epoch)
            traffic.count_sent(message)

    def _arrived(self, halves: Mapping[int, _Half]) -> list[tuple[int, Frame]]:
        """One message from each neighbor that has one, to be read.

        A broken edge has nothing more to wait for. An answer is taken at once: what counts by it is
        in what the other end is told when the edge forms anew.
        """
        found = []
        for j, half in halves.items():
            if half.awaits and half.link.epoch == half.epoch and half.link.holds(j, self._agent):
                frame = half.link.take(j, self._agent)
                if (frame.kind is Kind.DATA) is not (Kind.DATA in half.awaits):
                    half.link.reset("it is out of step with us")
                    self._lose(j, half)
                elif frame.kind is Kind.DATA:
                    found.append((j, frame))
                else:
                    self._take_answer(j, half, frame)
            elif half.awaits and not half.link.carries(half.epoch):
                self._lose(j, half)
        return found

    def _lose(self, j: int, half: _Half) -> None:
        """An edge that broke, or was down: what was to come does not come."""
        if half.link.status is Status.LEFT:
            what, why = "left", half.link.why
        elif half.message is not None:
            what, why = "unconfirmed", f"no answer to what we said: {half.link.why}"
        else:
            what, why = "lost", half.link.why or "the edge formed anew"
        self.incidents.append(Incident(j, what, why))
        half.awaits, half.message = set(), None

    def _take_answer(self, j: int, half: _Half, frame: Frame) -> None:
        """What a neighbor made of what we said."""
        half.awaits = set()
        if frame.kind is Kind.REFUSE:
            half.message = None
            self.incidents.append(Incident(j, "declined", _reason(frame)))
        elif half.message is not None and not self.quiet and not self.heard[j].get("quiet"):
            self._accounts.count(half.link)
            self._counted.append(half.link)

    def _take(
        self, j: int, half: _Half, frame: Frame, step: Step, number: int, traffic: Traffic
    ) -> None:
        """What a neighbor says."""
        try:
            own = frame.said
            check_brief(own)
            if reason := self._elsewhere(j, own, number):
                if not half.mutual:
                    return  # it goes on without us: what we missed is still to be skipped
                raise StructureError(reason)
            # What a listener says is not mixed, whatever it is: it is not to be refused for that.
            half.message = self._read(j, frame, None if own.get("quiet") else step.admit)
            self.heard[j], self._last[j] = own, (half.epoch, own)
            answer = said(Kind.ACCEPT, self._agent, j, None)
            traffic.count_received(half.message)
        except StructureError as error:
            self.incidents.append(Incident(j, "refused", str(error)))
            answer = said(Kind.REFUSE, self._agent, j, shown(str(error)))
        half.awaits -= {Kind.DATA}
        if half.mutual:
            half.link.post(answer, half.epoch)

    def _elsewhere(self, j: int, own: Any, number: int) -> str | None:
        """Why what a neighbor says is no part of this step of this talk, if it is none."""
        if not isinstance(own, dict) or own.get("about") != self._about:
            theirs = shown(own.get("about"), 80) if isinstance(own, dict) else "nothing"
            return f"what agent {j} says is about {theirs}, and we are talking about {self._about}"
        if own.get("step") != number:
            return f"what agent {j} says is of another step of the round"
        return None

    def _read(self, j: int, frame: Frame, admit: Callable[[int, Message], None] | None) -> Message:
        message = unpack(frame.header, frame.payload, self._device, frame.sum)
        if admit is not None:
            admit(j, message)
        return message

    def _inbox(self, step: Step, halves: Mapping[int, _Half]) -> Inbox:
        inbox = {}
        for j in step.hear:
            message = halves[j].message if j in halves else None
            if message is None:
                continue
            if self.heard[j].get("quiet"):
                self.incidents.append(Incident(j, "quiet", "it listens, and is not mixed yet"))
                continue
            inbox[j] = message
        return inbox

    def _greeting(self, them: int) -> Mapping[str, Any]:
        with self._endpoint.changed:
            account = self._accounts.statement(self._endpoint.to(them))
        return {**self.saying, **account, "quiet": self.quiet}

    def _compare_counts(self, j: int, link: Link) -> None:
        """When an edge has formed anew: what the other end alone counted before."""
        if more := self._accounts.alone(link):
            why = f"it used {more} more of our messages than we of its"
            self.incidents.append(Incident(j, "one-sided", why))


def _reason(frame: Frame) -> str:
    try:
        return shown(frame.said)
    except StructureError as error:
        return str(error)
