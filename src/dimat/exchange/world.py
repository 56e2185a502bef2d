"""The world: the processes of a run, and the blocks of agents that live in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dimat.exchange.in_process import InProcess
from dimat.exchange.protocol import Transport


class World(Protocol):
    """The processes of a run, as one of them sees them."""

    @property
    def rank(self) -> int:
        """Rank of this process; agent 0 lives in that of rank 0."""

    @property
    def size(self) -> int:
        """Number of processes, >= 1."""

    def transport(self, agents: int) -> Transport:
        """A transport between agents that live in blocks; see :func:`block`.

        Every process asks for the same transports in the same order. Where there are fewer agents
        than processes, some processes have none.

        Args:
            agents: Number of all agents.
        """

    def agree(self, terms: Mapping[str, str]) -> None:
        """Require that all processes have some settings alike, before any talk.

        Args:
            terms: The settings by name.

        Raises:
            ExchangeError: If a setting differs; names it.
        """


@dataclass(frozen=True)
class SingleProcess:
    """The world of a run in one process."""

    rank: int = 0
    size: int = 1

    def transport(self, agents: int) -> Transport:
        """A transport that hands messages over in memory."""
        return InProcess(block(agents, self.rank, self.size))

    def agree(self, terms: Mapping[str, str]) -> None:
        """Require nothing: there is no other process."""


SINGLE_PROCESS = SingleProcess()


def block(agents: int, rank: int, size: int) -> range:
    """The agents that live in one process: consecutive numbers, in nearly equal blocks.

    Args:
        agents: Number of all agents.
        rank: Rank of the process.
        size: Number of processes.

    >>> [[*block(5, rank, 3)] for rank in range(3)], [[*block(1, rank, 2)] for rank in range(2)]
    ([[0, 1], [2, 3], [4]], [[0], []])
    """
    each, more = divmod(agents, size)
    first = rank * each + min(rank, more)
    return range(first, first + each + (rank < more))
