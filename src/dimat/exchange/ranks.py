"""The transport between processes under ``torchrun``, of which all live or all end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dimat.errors import ExchangeError
from dimat.exchange.in_process import InProcess
from dimat.exchange.network.link import Link, Status
from dimat.exchange.network.links import Links
from dimat.exchange.network.wire import Frame, Kind, pack, unpack
from dimat.exchange.protocol import Message, Result, Step, Talk, Traffic
from dimat.exchange.world import block


class Ranks(InProcess):
    """The transport of one block of agents, whose other agents are in other processes.

    No process may be missing: one that is lost, or has other settings, ends the run.

    Args:
        links: Links to the other ranks; ``links.us`` is this one.
        agents: Number of all agents.
        size: Number of ranks.
        device: Device on which messages are received.
        patience_s: Longest time to wait for a rank to come. A rank that is there, as its beats say,
            is waited for however slow it is: it may do what others do not, such as measure.
    """

    def __init__(
        self,
        links: Links,
        agents: int,
        size: int,
        device: torch.device | str = "cpu",
        patience_s: float = 600.0,
    ) -> None:
        blocks = [block(agents, rank, size) for rank in range(size)]
        super().__init__(blocks[links.us])
        self._home = {agent: rank for rank, own in enumerate(blocks) for agent in own}
        self._links, self._device, self._patience_s = links, device, patience_s
        self._packed: dict[int, tuple[Message, bytes, Tensor]] = {}
        for rank in {*range(size)} - {links.us}:
            links.to(rank)  # now: who trains for long before it first speaks is not absent

    def run(
        self, talks: Mapping[int, Talk[Result]], traffic: Mapping[int, Traffic]
    ) -> dict[int, Result]:
        """Run the talks of this block to their end.

        Raises:
            ExchangeError: If another process is lost, never comes, or has other settings.
        """
        try:
            return super().run(talks, traffic)
        finally:
            self._packed.clear()

    def post(self, sender: int, to: int, message: Message) -> None:
        """Take a message on its way: in memory within the block, else over a link."""
        if self._home[to] == self._links.us:
            super().post(sender, to, message)
            return
        # One message for several is packed once; what is kept here cannot change its identity.
        if id(message) not in self._packed:
            self._packed[id(message)] = (message, *pack(message, None, self._links.pool))
        _, header, payload = self._packed[id(message)]
        self._link(to).post(Frame(Kind.DATA, sender, to, header, payload))

    def arrived(self, sender: int, to: int) -> bool:
        """Whether a message has arrived."""
        if self._home[sender] == self._links.us:
            return super().arrived(sender, to)
        with self._links.changed:
            return self._link(sender).holds(sender, to)

    def fetch(self, sender: int, to: int) -> Message:
        """The first message that arrived."""
        if self._home[sender] == self._links.us:
            return super().fetch(sender, to)
        with self._links.changed:
            frame = self._link(sender).take(sender, to)
        return unpack(frame.header, frame.payload, self._device)

    def idle(self, waiting: Mapping[int, Step]) -> None:
        """Wait for a message from another process."""
        self._packed.clear()
        wanted = [
            (self._link(j), j, agent)
            for agent, step in waiting.items()
            for j in step.hear
            if not self.arrived(j, agent) and self._home[j] != self._links.us
        ]
        if any(all(self.arrived(j, i) for j in step.hear) for i, step in waiting.items()):
            return  # it came in the meantime
        if not wanted:
            super().idle(waiting)
        end = time.monotonic() + self._patience_s
        with self._links.changed:
            while not any(link.holds(j, agent) for link, j, agent in wanted):
                absent = _absent([link for link, *_ in wanted])
                left = end - time.monotonic()
                if absent and left <= 0:
                    raise ExchangeError(
                        f"ranks {absent} have not come for {self._patience_s:g} s "
                        "(setting 'exchange.patience_s')"
                    )
                self._links.changed.wait(left if absent else None)

    def _link(self, agent: int) -> Link:
        return self._links.to(self._home[agent])


def _absent(links: Sequence[Link]) -> list[int]:
    """The ranks that never came.

    Raises:
        ExchangeError: If a rank was there and is lost.
    """
    for link in links:
        never = link.status is Status.DOWN and link.epoch == 0
        if not (never or link.carries(1)):
            raise ExchangeError(f"rank {link.them} is lost: {link.why or 'it came back anew'}")
    return sorted({link.them for link in links if link.epoch == 0})
