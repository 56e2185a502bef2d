"""An inventory before an agent runs: what its site has, whom it reaches, and what to mend."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dimat.agent.membership import most_bytes
from dimat.errors import ConfigError, ExchangeError, StructureError
from dimat.exchange.handshake import check_terms
from dimat.exchange.network.endpoint import MOST_PROBE, Endpoint, is_lasting
from dimat.exchange.network.link import Link, Rules
from dimat.exchange.network.peers import Addresses
from dimat.exchange.network.security import Security
from dimat.exchange.network.site import AgentSite
from dimat.exchange.network.status import StatusReport, measure
from dimat.experiment.handshake import handshake
from dimat.experiment.setup import Setup
from dimat.methods import Method
from dimat.state import num_bytes, state_of
from dimat.topology import near

_PROBES = 4  # of a MiB each
_SOON_DAYS = 30
_MOST_APART_S = 60.0  # of clocks; certificates begin and end by them
_THERE = ("certificate", "TLS", "host")  # signs in a reason that starting a neighbor mends nothing
_START = "start it, or its 'dimat agent --check'"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        what: What was looked at.
        found: How it is, and if it is not well, what to mend.
        grade: ok; note: it works, and somebody should know; mend: a run would lack something.
    """

    what: str
    found: str
    grade: Literal["ok", "note", "mend"] = "ok"


def take_stock(setup: Setup, method: Method, agent: int, site: AgentSite) -> list[Finding]:
    """Look at an agent's site, and meet its neighbors, who run or check too.

    Args:
        setup: The setup of the run in this process.
        method: The method.
        agent: The agent's number.
        site: Where the agent and its neighbors are, and what protects their connections.
    """
    others, config = near(setup.topology, agent), setup.config
    found = [*_at_home(site, agent, others)]
    if any(own.grade == "mend" for own in found):
        return [*found, Finding("the rest", "not looked at yet", "note")]
    terms = handshake(setup, matches=method.matches)
    size = num_bytes(state_of(setup.new_model(agent), setup.exchanged))
    rules = Rules(terms, config.exchange.timeout_s, most_bytes(size, method), check=True)
    report = StatusReport()
    report.tell(check=True)
    try:
        addresses, listen, security = site.place(agent, others)
        endpoint = Endpoint(agent, addresses, listen, security, rules, status=report.encoded)
    except ConfigError as error:
        return [*found, Finding("address", str(error), "mend")]
    try:
        at = endpoint.address
        where = "it has none: it dials its neighbors" if at is None else f"listens at {at}"
        sent = size // 2 if config.exchange.precision == "bfloat16" else size
        meeting = _Meeting(endpoint, addresses, sent, config.exchange.patience_s)
        return [*found, Finding("address", where), *meeting.all(others)]
    finally:
        endpoint.close()


def _at_home(site: AgentSite, agent: int, others: Sequence[int]) -> Iterator[Finding]:
    """What can be looked at without anybody else."""
    try:
        yield _certificate(site.security(agent))
    except ConfigError as error:
        yield Finding("certificate", str(error), "mend")
    try:
        peers = site.addresses(agent, others)
        known = f"in it: neighbors {', '.join(map(str, others))}" if others else "no neighbors"
        yield Finding("peers.yaml", f"{known}; digest {peers.digest}")
    except ConfigError as error:
        yield Finding("peers.yaml", str(error), "mend")


def _certificate(security: Security) -> Finding:
    own = security.identity
    if own is None:
        return Finding("certificate", f"none: {security.kind}", "note")
    days = (own.valid_until - datetime.datetime.now(datetime.UTC)).days
    told = f"agent {own.agent} of run {own.run}, valid until {own.valid_until:%Y-%m-%d}"
    if days >= _SOON_DAYS:
        return Finding("certificate", told)
    return Finding("certificate", f"{told}, in {days} days: have a new one signed", "note")


class _Meeting:
    """Neighbors, looked at one by one as they come.

    Args:
        endpoint: Of the agent that checks.
        addresses: Where the agents are found.
        message_bytes: Size of what is sent to each neighbor in a round.
        patience_s: Seconds that a neighbor waits for it.
    """

    def __init__(
        self, endpoint: Endpoint, addresses: Addresses, message_bytes: int, patience_s: float
    ) -> None:
        self._endpoint, self._addresses = endpoint, addresses
        self._bytes, self._patience_s = message_bytes, patience_s
        self._seconds: dict[int, float] = {}

    def all(self, others: Sequence[int]) -> Iterator[Finding]:
        """What is found of all neighbors, as far as they come in time."""
        links = {j: self._endpoint.to(j) for j in others}
        found: dict[int, list[Finding]] = {}
        wait_s = self._endpoint.rules.timeout_s
        end = time.monotonic() + wait_s
        while len(found) < len(links) and (here := self._next(links, found, end)):
            for j in here:  # at once: it may end when it has met all of its own
                found[j] = [*self._met(j, links[j])]
        self._let_measure(links)
        for j, link in links.items():
            yield from found.get(j, [self._missed(j, link, wait_s)])
        yield from self._of_all(len(links))

    def _next(self, links: Mapping[int, Link], found: Mapping[int, Any], end: float) -> list[int]:
        """Those who have come since; nobody if the time is over, or all others refuse us."""
        with self._endpoint.changed:
            while True:
                missing = {j: link for j, link in links.items() if j not in found}
                here = [j for j, link in missing.items() if link.greeting]
                left = end - time.monotonic()
                if here or left <= 0 or all(is_lasting(x.refusal) for x in missing.values()):
                    return here
                self._endpoint.changed.wait(min(left, 1.0))

    def _met(self, j: int, link: Link) -> Iterator[Finding]:
        """What is found of a neighbor that has come."""
        greeting, name = link.greeting, f"agent {j}"
        does = "checks too" if greeting.get("check") is True else "runs"
        yield Finding(f"{name}: connection", f"there is one; it {does}")
        try:
            check_terms(link.rules.terms, greeting.get("terms"), name)
            yield Finding(f"{name}: settings", "settings, graph and model are alike")
        except StructureError as error:
            yield Finding(f"{name}: settings", f"{error}: make them alike", "mend")
        yield self._clock(name, greeting)
        if greeting.get("peers") != self._endpoint.peers_digest:
            told = "its peers.yaml has other addresses than ours: compare them"
            yield Finding(f"{name}: peers.yaml", told, "note")
        yield self._bandwidth(j, name)

    def _clock(self, name: str, greeting: Mapping[str, Any]) -> Finding:
        theirs, ours = greeting.get("time"), float(greeting["arrived"])
        if not isinstance(theirs, (int, float)):
            return Finding(f"{name}: clock", "it does not say what time it is", "note")
        apart = float(theirs) - ours
        if abs(apart) <= _MOST_APART_S:
            return Finding(f"{name}: clock", "is ours to a minute")
        told = (
            f"is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} ours: set both by NTP"
        )
        return Finding(f"{name}: clock", told, "mend")

    def _bandwidth(self, j: int, name: str) -> Finding:
        what, address = f"{name}: bandwidth", self._addresses.of(j)
        if address is None:
            return Finding(what, "not measured, as it has no address: it measures its own way")
        security, wait_s = self._endpoint.security, self._endpoint.rules.timeout_s
        try:
            took = measure(security, self._endpoint.agent, j, address, MOST_PROBE, _PROBES, wait_s)
        except ExchangeError as error:
            return Finding(what, f"not measured: {error}", "note")
        rate = MOST_PROBE / took
        self._seconds[j] = seconds = self._bytes / rate
        told = f"{rate / 1e6:.3g} MB/s to it: {seconds:.2g} s a message"
        if seconds <= self._patience_s:
            return Finding(what, told)
        return Finding(what, f"{told}, more than exchange.patience_s: raise that", "mend")

    def _let_measure(self, links: Mapping[int, Link]) -> None:
        """Be there until neighbors that check have measured too, if they can."""
        endpoint = self._endpoint
        if self._addresses.of(endpoint.agent) is None:
            return
        both = [j for j, link in links.items() if link.greeting.get("check") is True]
        end = time.monotonic() + endpoint.rules.timeout_s
        with endpoint.changed:
            while any(endpoint.probed[j] <= _PROBES for j in both):
                left = end - time.monotonic()
                if left <= 0:
                    return
                endpoint.changed.wait(min(left, 1.0))

    def _missed(self, j: int, link: Link, wait_s: float) -> Finding:
        """Why a neighbor has not come."""
        own = self._endpoint
        what, address = f"agent {j}: connection", self._addresses.of(j)
        if link.refusal:
            told = link.why
        elif address is not None and (own.agent > j or own.address is None):
            told = f"none to {address}: {link.why}"
            if not any(sign in link.why for sign in _THERE):
                told += f"; {_START}, or see to the firewall"
        else:
            told = (
                f"it did not dial us in {wait_s:g} s: {_START}, and see that it reaches "
                f"{self._addresses.of(own.agent)}"
            )
        return Finding(what, told, "mend")

    def _of_all(self, neighbors: int) -> Iterator[Finding]:
        """What concerns all of them."""
        refused = ", ".join(f"{cause} ({n})" for cause, n in self._endpoint.refused.items())
        if refused:
            yield Finding("refused calls", refused, "note")
        told = f"{neighbors} message{'s' * (neighbors != 1)} of {self._bytes / 1e6:.3g} MB"
        if len(self._seconds) == neighbors:
            told += f", {sum(self._seconds.values()):.2g} s to send them, each alone"
        yield Finding("a round", told)
