"""The processes that a run is spread over, and which agents live in which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dimat.exchange.in_process import InProcess
from dimat.exchange.protocol import Transport


class World(Protocol):
    """All processes of a run, as one of them sees it."""

    @property
    def rank(self) -> int:
        """The number of this process; agent 0 lives in process 0."""

    @property
    def size(self) -> int:
        """How many processes there are, >= 1."""

    def transport(self, agents: int) -> Transport:
        """A transport between so many agents, that live in blocks; see :func:`block`.

        Every process asks for the same transports in the same order. Where there are fewer agents
        than processes, some processes have none.
        """

    def agree(self, terms: Mapping[str, str]) -> None:
        """What all processes must have alike, by name; said before anything else is.

        Where it differs, talks raise an ``ExchangeError`` that names it.
        """


@dataclass(frozen=True)
class SingleProcess:
    """The one process of a run in one process."""

    rank: int = 0
    size: int = 1

    def transport(self, agents: int) -> Transport:
        """Messages are handed over in memory."""
        return InProcess(block(agents, self.rank, self.size))

    def agree(self, terms: Mapping[str, str]) -> None:
        """There is nobody else."""


SINGLE_PROCESS = SingleProcess()


def block(agents: int, rank: int, size: int) -> range:
    """The agents that live in one process: neighbors in number, the first processes one more.

    >>> [[*block(5, rank, 3)] for rank in range(3)], [[*block(1, rank, 2)] for rank in range(2)]
    ([[0, 1], [2, 3], [4]], [[0], []])
    """
    each, more = divmod(agents, size)
    first = rank * each + min(rank, more)
    return range(first, first + each + (rank < more))
