"""The world of the processes that ``torchrun`` started."""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from dimat.errors import ConfigError, ExchangeError, StructureError, first_line
from dimat.exchange.handshake import check_terms
from dimat.exchange.protocol import Step, Talk, Traffic, Transport
from dimat.exchange.ranks import Peers, Ranks
from dimat.exchange.tree import json_of, with_json

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOOPBACK = "127.0.0.1"
_AGAIN_S = 0.02  # between looks at who has come


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that ``torchrun`` started together.

    Args:
        environment: Environment variables.
    """
    return all(name in environment for name in _NEEDED)


def restarts(environment: Mapping[str, str] = os.environ) -> int:
    """Number of times that all processes were started again after one of them had died.

    Args:
        environment: Environment variables.
    """
    return int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))


@dataclass(frozen=True)
class Torchrun:
    """The world of the processes of one ``torchrun``.

    Args:
        peers: The other processes.
    """

    peers: Peers

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return self.peers.rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.peers.size

    def transport(self, agents: int) -> Transport:
        """A transport that hands messages over in memory within a block, and sends others."""
        return Ranks(self.peers, agents)

    def agree(self, terms: Mapping[str, str]) -> None:
        """Require that all processes have these settings alike.

        Raises:
            ExchangeError: If a setting of another process differs; names it, with both values.
        """

        def talk() -> Talk[None]:
            others = [rank for rank in range(self.size) if rank != self.rank]
            inbox = yield Step(dict.fromkeys(others, with_json(dict(terms))), others)
            for rank, message in inbox.items():
                check_terms(terms, json_of(message)[0], f"rank {rank}")

        try:
            self.transport(self.size).run({self.rank: talk()}, {self.rank: Traffic()})
        except StructureError as error:
            raise ExchangeError(str(error)) from error

    def close(self) -> None:
        """Say goodbye to all other processes."""
        self.peers.close()


@dataclass(frozen=True)
class Place:
    """The place of a process in a ``torchrun``.

    Args:
        rank: Rank of the process.
        size: Number of processes.
        local: Whether all processes are on this machine.
        host: Where torchrun's store listens.
        port: Where torchrun's store listens.
        attempt: Name of this start of all processes, of which one store may see several.
    """

    rank: int
    size: int
    local: bool = True
    host: str = _LOOPBACK
    port: int = 0
    attempt: str = ""


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place of this process, as ``torchrun`` wrote it into the environment.

    Args:
        environment: Environment variables.

    Raises:
        ConfigError: If the variables make no sense.
    """
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{', '.join(_NEEDED)} must be as torchrun sets them: {error}") from error
    if not 0 <= rank < size:
        raise ConfigError(f"RANK is {rank} and WORLD_SIZE {size}: must be 0 <= RANK < WORLD_SIZE")
    hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or dist.is_initialized()
    if not hosted and rank == 0:
        _serve(host, port)
    attempt = f"dimat/{environment.get('TORCHELASTIC_RUN_ID', '')}/{restarts(environment)}"
    local = environment.get("LOCAL_WORLD_SIZE", "1") == str(size)
    return Place(rank, size, local, host, port, attempt)


def own_host(place: Place) -> str:
    """The address of this machine at which the other processes reach it.

    Args:
        place: Place of this process.

    Raises:
        ConfigError: If none leads to the machine of torchrun's store, or that is loopback, and not
            all processes are here.
    """
    if place.local:
        return _LOOPBACK
    try:
        family, kind, *_, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as own:
            own.connect(address)  # which sends nothing
            found = str(own.getsockname()[0])
    except OSError as error:
        raise ConfigError(f"MASTER_ADDR is {place.host}, where no way leads: {error}") from error
    if ipaddress.ip_address(found.partition("%")[0]).is_loopback:
        raise ConfigError(
            f"MASTER_ADDR is {place.host}, on this machine the address {found}, and other machines "
            "cannot reach that: give torchrun one that they can (--rdzv-endpoint, --master-addr)"
        )
    return found


def exchange_addresses(place: Place, own: str, name: str, timeout_s: float) -> dict[int, str]:
    """The address that each process gives, by rank, once all have given theirs.

    Args:
        place: Place of this process.
        own: Address of this process, such as HOST:PORT.
        name: What the addresses are of; every process asks for the same in the same order.
        timeout_s: Longest time to wait for the other processes, > 0.

    Raises:
        ExchangeError: If a process does not come in time; names it.
    """
    store = _store(place, name, timeout_s)
    _come(store, place, own, timeout_s)
    return {rank: bytes(store.get(str(rank))).decode() for rank in range(place.size)}


def world(
    *,
    patience_s: float = 600.0,
    device: torch.device | str = "cpu",
    environment: Mapping[str, str] = os.environ,
) -> Torchrun:
    """The world of this process: all of its default process group, which is made if there is none.

    Args:
        patience_s: Longest time to wait for the other processes to come.
        device: Device on which messages are received.
        environment: Environment variables, as ``torchrun`` sets them.

    Raises:
        ConfigError: If the variables make no sense.
        ExchangeError: If a process does not come in time, or cannot be reached.
    """
    own = place(environment)
    patience = timedelta(seconds=patience_s)
    store = _store(own, "ranks", patience_s)
    _come(store, own, "", patience_s)
    try:
        with _on_loopback(own.local):
            if dist.is_initialized():  # by the caller, maybe for NCCL
                return Torchrun(Peers(dist.new_group(backend="gloo", timeout=patience), device))
            dist.init_process_group(
                "gloo", store=store, rank=own.rank, world_size=own.size, timeout=patience
            )
    except RuntimeError as error:
        raise ExchangeError(
            f"the ranks cannot reach each other: {first_line(error)}; on several machines "
            "GLOO_SOCKET_IFNAME names the network interface to use"
        ) from error
    return Torchrun(Peers(None, device))


def _store(place: Place, name: str, timeout_s: float) -> Store:
    """The keys of torchrun's store for one purpose, and one time that it is needed."""
    end = time.monotonic() + timeout_s
    while True:
        try:  # first: a TCPStore that finds nobody fills stderr, and no Ctrl-C interrupts it
            with socket.create_connection((place.host, place.port), 2):
                break
        except OSError as error:
            if time.monotonic() > end:
                raise ExchangeError(
                    f"torchrun's store at {place.host}:{place.port} does not answer for "
                    f"{timeout_s:g} s (setting 'exchange.patience_s'): {error}"
                ) from error
        time.sleep(_AGAIN_S)
    store = TCPStore(place.host, place.port, None, False, wait_for_workers=False)
    _times[name] += 1
    return PrefixStore(f"{place.attempt}/{name}/{_times[name]}", store)


def _come(store: Store, place: Place, said: str, timeout_s: float) -> None:
    """Write into the store that this process is there, and wait for the others."""
    every = [str(rank) for rank in range(place.size)]
    end = time.monotonic() + timeout_s
    store.set(str(place.rank), said)
    while not store.check(every):
        if time.monotonic() > end:
            absent = [rank for rank in range(place.size) if not store.check([str(rank)])]
            raise ExchangeError(
                f"ranks {absent} have not come for {timeout_s:g} s (setting 'exchange.patience_s')"
            )
        time.sleep(_AGAIN_S)  # not store.wait, which no Ctrl-C interrupts


@contextmanager
def _on_loopback(local: bool) -> Iterator[None]:
    """Have Gloo listen on loopback alone if all processes are here, unless the user says where."""
    name = "GLOO_SOCKET_IFNAME"
    loopback = [found for _, found in socket.if_nameindex() if found in ("lo", "lo0")]
    if not local or name in os.environ or not loopback:
        yield
        return
    os.environ[name] = loopback[0]
    try:
        yield
    finally:
        del os.environ[name]


_times = Counter[str]()  # of asking for a name: what was written the last time is not read again


@functools.cache  # it lives as long as the process
def _serve(host: str, port: int) -> Store:
    """A store that listens on one address only, where a TCPStore by itself listens on all."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"MASTER_ADDR:MASTER_PORT is {host}:{port}, where rank 0 cannot listen ({error}): must "
            "be an address of its machine and a free port"
        ) from error
    return TCPStore(
        host, port, None, True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
