"""The exchange protocol: messages, steps, and counted traffic."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:  # who asks how agents are needs no PyTorch
    from torch import Tensor

Message: TypeAlias = "Mapping[str, Tensor]"
Inbox: TypeAlias = "Mapping[int, Message]"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Step:
    """One step of a conversation.

    Args:
        send: A message for each agent to be told.
        hear: The agents to hear from, one message each, before going on. Where messages can be
            lost, the inbox lacks those of agents that were.
        admit: Called by the transport with the sender and its message before that is handed over;
            raises :class:`~dimat.errors.StructureError` for one that must not be used. Where
            nothing may be lost, that error ends the talk; where messages can be, this one is.
    """

    send: Mapping[int, Message] = field(default_factory=dict)
    hear: Sequence[int] = ()
    admit: Callable[[int, Message], None] | None = None


Talk = Generator[Step, Inbox, Result]


@dataclass
class Traffic:
    """What an exchange counts at one agent, cumulative.

    Args:
        sent_bytes: Bytes that left it (or would have, in one process).
        received_bytes: Bytes that arrived.
        busy_s: Seconds that it computed between messages, without waiting for any.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    busy_s: float = field(default=0.0, compare=False)

    def count_sent(self, message: Message) -> None:
        """Add a message on its way out."""
        self.sent_bytes += _num_bytes(message)

    def count_received(self, message: Message) -> None:
        """Add a message that arrived."""
        self.received_bytes += _num_bytes(message)


def _num_bytes(message: Message) -> int:
    # As dimat.state.num_bytes, whose module needs PyTorch.
    return sum(value.numel() * value.element_size() for value in message.values())


class Transport(Protocol):
    """Carries the talks of the agents that live in this process to agents that live anywhere."""

    @property
    def agents(self) -> Sequence[int]:
        """The agents of this process, in order."""

    def run(
        self, talks: Mapping[int, Talk[Result]], traffic: Mapping[int, Traffic]
    ) -> dict[int, Result]:
        """Run the talk of every agent of this process to its end, each as far as its mail allows.

        Args:
            talks: One generator for each agent of this process.
            traffic: One counter for each; increased.

        Returns:
            What each talk returned.
        """
