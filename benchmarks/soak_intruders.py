"""Intruders on an agent's port: each tries to get in, holds out until it is shut out, and says how.

None of them has a certificate that lets it in; one is let in only if something is broken.
"""

from __future__ import annotations

import datetime
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from tests.distributed.cluster import LONG_S, Cluster
from tests.identity import making

from dimat.exchange.network.hosts import split_address
from dimat.exchange.network.rpc import grpc
from dimat.exchange.network.security import Security
from dimat.identity import Authority, Identity, request

_WAIT_S = 60.0  # for an agent that is down or frozen
IDLE = 200  # connections at once
LET_IN = "let in"
_ENDED = "the agent itself ended"
_TLS = "no handshake"
_EXCHANGE = "/dimat.Agent/Exchange"


@dataclass
class Intruders:
    """Those who strike an agent's port, by kind, with the certificates that each has.

    Args:
        cluster: The agents.
        folder: Where the certificates are made.
    """

    cluster: Cluster
    folder: Path

    def __post_init__(self) -> None:
        ours, run = self.cluster.authority, "test"
        stranger = Authority.create(self.folder / "ca", run)  # of the same name, of another key
        ca = making.Made(ours.key, ours.certificate)
        for i in range(self.cluster.agents):
            signed(self.folder / f"stranger-{i}", stranger, agent=i)
            ends = making.make(
                ca,
                alternative=making.names(i, run),
                since=-2 * making.DAY,
                until=-datetime.timedelta(seconds=1),
            )
            making.place(self.folder / f"expired-{i}", ends, ca)
        signed(self.folder / "observer", ours, observer="gone")
        ours.revoke(observer="gone")
        for i in range(self.cluster.agents):
            shutil.copy(ours.folder / "revoked.pem", self.cluster.certificates(i))

    def strike(self, kind: str, agent: int, neighbor: int) -> str:
        """How an intruder was shut out, or that it was let in; it waits for one that is down.

        Args:
            kind: Of the intruder.
            agent: Whose port it strikes.
            neighbor: The neighbor of the agent that it claims to be.
        """
        end = time.monotonic() + _WAIT_S
        while True:
            how = self._strike(kind, agent, neighbor)
            if how not in {_ENDED, _TLS} - EXPECTED[kind] or time.monotonic() > end:
                return how
            time.sleep(0.5)

    def _strike(self, kind: str, agent: int, neighbor: int) -> str:
        address = self.cluster.addresses[agent]
        place = split_address(address)
        assert place is not None
        if kind == "idle":
            return hold([connected(place) for _ in range(IDLE)])
        if kind == "loris":
            return hold([connected(place)], hello=bytes.fromhex("1603010200010001fc0303"))
        claimed: int | None = neighbor
        if kind == "plaintext":
            channel = grpc.insecure_channel(address)
        else:
            folder = {
                "stranger": self.folder / f"stranger-{neighbor}",
                "expired": self.folder / f"expired-{neighbor}",
                "impostor": self.cluster.certificates(agent),  # another than it says
                "observer": self.folder / "observer",
            }[kind]
            claimed = None if kind == "observer" else neighbor
            pem = [(folder / f"{name}.pem").read_bytes() for name in ("key", "certificate")]
            ca = (self.cluster.folder / "ca" / "ca.pem").read_bytes()
            known = Identity("test", claimed, *pem, ca, folder)
            channel = Security("test", known).channel(agent, address)
        with channel:
            return call(channel, claimed, agent)


def signed(
    folder: Path, ca: Authority, agent: int | None = None, observer: str | None = None
) -> None:
    """A folder with a key, and a certificate that a CA signs for it."""
    asked = request(folder, "test", agent, observer)
    pem = ca.sign(asked.public_bytes(Encoding.PEM), agent, observer)
    (folder / "certificate.pem").write_bytes(pem)


def call(channel: grpc.Channel, claimed: int | None, agent: int) -> str:
    """What becomes of a call for an exchange."""
    _, claim = Security("test").claim(claimed, agent, "intruder")
    ask = channel.stream_stream(_EXCHANGE)(iter(()), metadata=claim, timeout=LONG_S)
    if "dimat-certificate-bin" in dict(ask.initial_metadata() or ()):
        ask.cancel()
        return LET_IN
    code, why = ask.code(), str(ask.details())
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return why.partition(":")[0]
    if "refused" in why:
        return _ENDED
    return _TLS if code is grpc.StatusCode.UNAVAILABLE else f"{code}: {why}"


def connected(place: tuple[str, int]) -> socket.socket | None:
    """A connection; None if nobody listens there now."""
    try:
        return socket.create_connection(place, LONG_S)
    except ConnectionError:
        return None


def hold(sockets: list[socket.socket | None], hello: bytes = b"") -> str:
    """Keep connections until the other end has closed them all.

    Args:
        sockets: The connections.
        hello: The beginning of a TLS handshake, sent a byte at a time, and then nothing.
    """
    open_ones = [own for own in sockets if own is not None]
    if not open_ones:
        return _ENDED
    end = time.monotonic() + LONG_S
    for byte in hello:
        try:
            open_ones[0].sendall(bytes([byte]))
        except OSError:
            break
        time.sleep(0.5)
    for own in open_ones:
        with own:
            own.settimeout(max(end - time.monotonic(), 0.01))
            try:
                while own.recv(1 << 10):
                    pass
            except TimeoutError:
                return "not shut out"
            except ConnectionError:
                pass
    return "closed"


EXPECTED = {
    "plaintext": {_TLS},
    "stranger": {_TLS},
    "expired": {_TLS},
    "impostor": {"other-agent"},
    "observer": {"revoked"},
    "idle": {"closed"},
    "loris": {"closed"},
}
"""How each kind of intruder is shut out."""


def is_shut_out(kind: str, how: str) -> bool:
    """Whether an intruder met what it was to meet, or an agent that was down just then."""
    return how in {*EXPECTED[kind], _ENDED, _TLS}
