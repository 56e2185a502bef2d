"""The world of the processes that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dimat.errors import ConfigError
from dimat.exchange.network.link import Rules
from dimat.exchange.network.links import Links
from dimat.exchange.network.rendezvous import Directory, serve
from dimat.exchange.protocol import Transport
from dimat.exchange.ranks import Ranks

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


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
        rank: Rank of this process.
        size: Number of processes.
        links: Links to the other processes.
        device: Device on which messages are received.
        patience_s: Longest time to wait for a process that never comes.
    """

    rank: int
    size: int
    links: Links
    device: torch.device | str = "cpu"
    patience_s: float = 600.0

    def transport(self, agents: int) -> Transport:
        """A transport that hands messages over in memory within a block, and sends others."""
        return Ranks(self.links, agents, self.size, self.device, self.patience_s)

    def agree(self, terms: Mapping[str, str]) -> None:
        """Require that all processes have these settings alike, checked at the first message."""
        own = self.links.common
        own.rules = Rules(terms, own.rules.timeout_s, own.rules.limit_bytes)

    def close(self) -> None:
        """Say goodbye to all other processes."""
        self.links.close()


@dataclass(frozen=True)
class Place:
    """The place of a process in a ``torchrun``, and the rendezvous of its processes.

    Args:
        rank: Rank of the process.
        size: Number of processes.
        board: The store where the processes find each other.
        interface: Address on which the process is found: loopback if all are on this machine;
            None: the one that leads to the store.
    """

    rank: int
    size: int
    board: Directory
    interface: str | None


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
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and rank == 0:
        _held.append(serve(host, port))
    attempt = f"{environment.get('TORCHELASTIC_RUN_ID', '')}/{restarts(environment)}"
    together = environment.get("LOCAL_WORLD_SIZE", "1") == str(size)
    board = Directory(host, port, f"dimat/{attempt}")
    return Place(rank, size, board, "127.0.0.1" if together else None)


def world(
    *,
    interface: str | None = None,
    timeout_s: float = 30.0,
    patience_s: float = 600.0,
    device: torch.device | str = "cpu",
    environment: Mapping[str, str] = os.environ,
) -> Torchrun:
    """The world of this process, as ``torchrun`` wrote it into the environment.

    Args:
        interface: Address of this machine that the other processes connect to. None: loopback if
            all are on this machine, otherwise the one that leads to the rendezvous.
        timeout_s: Time of silence after which a process is lost.
        patience_s: Longest time to wait for a process that never comes.
        device: Device on which messages are received.
        environment: Environment variables, as ``torchrun`` sets them.

    Raises:
        ConfigError: If the variables make no sense.
    """
    own = place(environment)
    rules = Rules(timeout_s=timeout_s)
    links = Links(own.rank, own.board, interface or own.interface, rules, what="rank")
    return Torchrun(own.rank, own.size, links, device, patience_s)


_held: list[object] = []  # a store that this process serves lives as long as the process
