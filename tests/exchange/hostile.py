"""Honest agents with real certificates, and those who mean them harm."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.exchange.threads import HOST, LISTEN, LONG_S, SOON_S, together, until
from tests.identity.making import RUN, Made, identity_of, make, make_ca, names, place

from dimat.exchange import Step, Talk, Traffic
from dimat.exchange.network.endpoint import Endpoint, _ThreadPerCall
from dimat.exchange.network.link import Link, Rules
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.exchange.network.peers import FixedAddresses
from dimat.exchange.network.rpc import grpc
from dimat.exchange.network.security import Claim, Security
from dimat.exchange.wire import PREAMBLE, Frame, Kind, read_head, said
from dimat.identity import Identity

ONE, TWO = 1, 2  # the honest agents; 0, which they dial, and 3, which dials them, are not
EXCHANGE, STATUS = "/dimat.Agent/Exchange", "/dimat.Agent/Status"
LIMIT = 1 << 20
SLACK = 8  # threads and descriptors that gRPC makes when it likes to


def limits() -> tuple[int, int]:
    """Open descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def falls_to(before: tuple[int, int], slack: int = SLACK) -> None:
    """Wait until no more descriptors and threads are left than there were."""
    until(lambda: all(now <= then + slack for now, then in zip(limits(), before, strict=True)))


class Honest:
    """Agents 1 and 2 with certificates of one CA; each also has neighbors 0 and 3.

    Args:
        folder: Of all certificates.
        timeout_s: Silence after which a neighbor is lost.
    """

    def __init__(self, folder: Path, timeout_s: float = LONG_S) -> None:
        self.folder, self.ca = folder, make_ca()
        self.addresses, self.hoods = FixedAddresses(), dict[int, Neighborhood]()
        rules = Rules(timeout_s=timeout_s, limit_bytes=LIMIT)
        for i in (ONE, TWO):
            security = Security(RUN, identity_of(self.at(i), self.ca, i))
            hood = Neighborhood(i, self.addresses, LISTEN, security, rules, patience_s=LONG_S)
            assert hood.address is not None
            self.addresses[i], self.hoods[i] = hood.address, hood
        self.hoods[TWO].await_neighbors([ONE], 0)  # it dials
        for i, j in ((ONE, TWO), (TWO, ONE)):
            assert self.hoods[i].await_neighbors([j], SOON_S) == []
        self.exchange()

    def at(self, agent: int) -> Path:
        """The folder of an agent's certificate."""
        return self.folder / f"{agent}"

    @property
    def endpoint(self) -> Endpoint:
        """Agent 1's."""
        return self.hoods[ONE]._endpoint

    def link(self, them: int) -> Link:
        """Agent 1's link to another."""
        return self.endpoint.to(them)

    def talk(self, i: int, near: Sequence[int], inbox: dict[int, Mapping[str, Any]]) -> None:
        """One exchange of an agent with some of its neighbors."""

        def steps() -> Talk[None]:
            own = {"x": torch.full((3,), float(i))}
            inbox.update((yield Step(dict.fromkeys(near, own), near)))

        self.hoods[i].run({i: steps()}, {i: Traffic()})

    def exchange(self) -> None:
        """An exchange between the two, which counts at both."""
        found: dict[int, dict[int, Mapping[str, Any]]] = {ONE: {}, TWO: {}}
        pairs = ((ONE, TWO), (TWO, ONE))
        together([lambda i=i, j=j: self.talk(i, [j], found[i]) for i, j in pairs])
        for i, j in pairs:
            assert found[i][j]["x"].tolist() == [j] * 3
            assert not self.hoods[i].incidents

    def made(self, agent: int | None, run: str = RUN, **rest: Any) -> Identity:
        """A certificate of the consortium for somebody else."""
        return own(
            self.folder / f"{run}-{agent}",
            make(self.ca, alternative=names(agent, run), **rest),
            self.ca,
        )

    def close(self) -> None:
        together([hood.close for hood in self.hoods.values()])


def own(folder: Path, made: Made, roots: Made) -> Identity:
    """An identity as it is, good or not."""
    place(folder, made, roots)
    return Identity(RUN, None, made.key_pem, made.pem, roots.pem, folder)


def channel(honest: Honest, identity: Identity) -> grpc.Channel:
    """A channel to agent 1."""
    return Security(RUN, identity).channel(ONE, honest.addresses[ONE])


def refusal(channel: grpc.Channel, claimed: int | None = 3) -> str:
    """How a call for an exchange with agent 1 is refused, before anything is said."""
    _, claim = Security(RUN).claim(claimed, ONE, "intruder")
    with channel:
        call = channel.stream_stream(EXCHANGE)(iter(()), metadata=claim, timeout=SOON_S)
        assert "dimat-certificate-bin" not in dict(call.initial_metadata() or ())
        with pytest.raises(grpc.RpcError):
            next(call)
        if call.code() is grpc.StatusCode.PERMISSION_DENIED:
            return str(call.details()).partition(":")[0]
        return str(call.code().name)


class Neighbor:
    """Agent 3 with a good certificate, which says to agent 1 what it likes."""

    def __init__(
        self, honest: Honest, identity: Identity, life: str = "3", *, listens: bool = True
    ) -> None:
        self.heard, self.session, self.number = list[Kind](), 0, 0
        self.said = list[bytes]()
        self.queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.channel = channel(honest, identity)
        _, claim = Security(RUN).claim(3, ONE, life)
        self.call = self.channel.stream_stream(EXCHANGE)(self._outgoing(), metadata=claim)
        self.listens = listens
        threading.Thread(target=self._listen, daemon=True).start()

    def _outgoing(self) -> Iterator[bytes]:
        while (piece := self.queue.get()) is not None:
            yield piece

    def _listen(self) -> None:
        try:
            for piece in self.call:
                head, header = read_head(piece, 0)
                if head.kind is Kind.HELLO:
                    self.session = Frame(head.kind, header=header).said["session"]
                self.heard.append(head.kind)
                if self.session and not self.listens:
                    return
        except (grpc.RpcError, ValueError):  # its messages too, which it cannot read
            pass

    def greet(self, **more: object) -> None:
        """Say hello, and wait for the other's."""
        self.speak(said(Kind.HELLO, 3, ONE, {"terms": {}, "session": 5, **more}))
        until(lambda: self.session)

    def pieces(self, frame: Frame) -> list[bytes]:
        """The frame as it is said next."""
        self.number += 1
        return list(frame.pieces(self.number - 1, self.session))

    def speak(self, frame: Frame) -> None:
        """Say a frame."""
        self.repeat(self.pieces(frame))

    def repeat(self, pieces: Iterable[bytes]) -> None:
        """Say what was said, or what was not."""
        for piece in pieces:
            self.said.append(piece)
            self.queue.put(piece)

    def trickle(self, size: int) -> list[bytes]:
        """The beginning of a message of so many bytes, which are still to be said."""
        frame = Frame(Kind.DATA, 3, ONE, b'{"said": {}}')
        words = list(PREAMBLE.unpack_from(self.pieces(frame)[0]))
        words[5] = size
        return [PREAMBLE.pack(*words) + frame.header]

    def close(self) -> None:
        self.queue.put(None)
        self.call.cancel()
        self.channel.close()


class Server:
    """A server at the address of agent 0, which keeps what it is told.

    Args:
        honest: Who dials it.
        identity: Whose certificate it shows.
        answers: Whether it answers a call at all.
    """

    def __init__(self, honest: Honest, identity: Identity, *, answers: bool = True) -> None:
        self.told, self.calls, self._ends = list[Kind](), 0, threading.Event()
        self._security, self._answers = Security(RUN, identity), answers
        self._server = grpc.server(_ThreadPerCall())
        handler = grpc.method_handlers_generic_handler(
            "dimat.Agent", {"Exchange": grpc.stream_stream_rpc_method_handler(self._called)}
        )
        self._server.add_generic_rpc_handlers((handler,))
        port = self._security.listen(self._server, LISTEN)
        self._server.start()
        honest.addresses[0] = f"{HOST}:{port}"

    def _called(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self.calls += 1
        if self._answers:
            asked = dict(context.invocation_metadata())
            caller, nonce = int(asked["dimat-from"]), asked["dimat-nonce-bin"]
            claim = Claim(caller, "", nonce)  # type: ignore[arg-type]
            context.send_initial_metadata(self._security.answer(claim, 0))
            yield b"".join(said(Kind.HELLO, 0, caller, {"terms": {}, "session": 7}).pieces())
            for piece in requests:
                self.told.append(read_head(piece, LIMIT)[0].kind)
        else:
            self._ends.wait()

    def close(self) -> None:
        self._ends.set()
        self._server.stop(None).wait()


class Cable:
    """A cable to an address, which can go dead: nothing is closed, and nothing arrives."""

    def __init__(self, address: str) -> None:
        self._to, self._dead = address, threading.Event()
        self._sockets = list[socket.socket]()
        self._listens = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._listens.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        host, _, port = self._to.rpartition(":")
        try:
            while True:
                near, _ = self._listens.accept()
                far = socket.create_connection((host, int(port)))
                self._sockets += [near, far]
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(a, b), daemon=True).start()
        except OSError:
            pass

    def _carry(self, a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(1 << 16):
                if self._dead.is_set():
                    return
                b.sendall(data)
            if not self._dead.is_set():
                b.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def die(self) -> None:
        """Carry nothing more, without a word."""
        self._dead.set()

    def close(self) -> None:
        for own in (self._listens, *self._sockets):
            with contextlib.suppress(OSError):  # it is closed at the other end
                own.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            own.close()
