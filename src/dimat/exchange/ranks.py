"""The transport between processes under ``torchrun``, of which all live or all end.

One Gloo group of all ranks. A message is the length of its header, the header, and its entries, of
which large ones are sent from where they are: they must not change before the run of the talks has
ended, as in one process. Nothing is allocated before the header was checked.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from queue import Queue
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dimat.errors import ExchangeError, StructureError, first_line
from dimat.exchange.in_process import InProcess
from dimat.exchange.protocol import Message, Result, Step, Talk, Traffic
from dimat.exchange.wire import MOST_HEADER, parts, room
from dimat.exchange.world import block

_EVER = timedelta(days=365)  # a rank that lives is waited for however slow it is
_PARTING_S = 30.0  # until a rank that does not answer a goodbye, as it is frozen, is left alone
_GOODBYE = [torch.zeros(1, dtype=torch.int64)]  # where the length of a header would be


class Peers:
    """The other ranks of a group: what is on its way to them, and what came from them.

    Of the two threads for each of them one sends and one receives: Gloo says of no transfer that it
    is complete before somebody waits for it, so several cannot be watched at once.

    Args:
        group: A Gloo group, in which ranks are as in the default group; None: that itself.
        device: Device on which messages are received.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.changed = threading.Condition()  # notified when a message came, or a rank is lost
        self.mail: dict[tuple[int, int, int], deque[Message]] = defaultdict(deque)
        self.lost: dict[int, str] = {}  # why, by rank
        self._group, self._device = group, torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:  # each thread has its own
            self._device = torch.device("cuda", torch.cuda.current_device())
        others = [rank for rank in range(self.size) if rank != self.rank]
        self._outboxes: dict[int, Queue[Sequence[Tensor]]] = {rank: Queue() for rank in others}
        self._left: set[int] = set()  # those to whom goodbye is said
        self._threads = [
            threading.Thread(target=work, args=(rank,), daemon=True)
            for rank in others
            for work in (self._listen, self._speak)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def send(self, rank: int, parts: Sequence[Tensor]) -> None:
        """Have tensors sent to a rank; not to one that is lost or needs nothing any more."""
        with self.changed:
            if rank not in self._left:
                self._outboxes[rank].put(parts)

    def finish(self) -> None:
        """Wait until all is sent."""
        for outbox in self._outboxes.values():
            outbox.join()

    def close(self) -> None:
        """Say goodbye to all, hear it from all that live, and leave the group."""
        atexit.unregister(self.close)
        for rank in self._outboxes:
            self._leave(rank)
        end = time.monotonic() + _PARTING_S
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        if not any(thread.is_alive() for thread in self._threads):  # they must not lose the group
            dist.destroy_process_group(self._group)

    def _leave(self, rank: int) -> None:
        """Say goodbye to a rank, once; what was said before arrives before."""
        with self.changed:
            if rank not in self._left:
                self._left.add(rank)
                self._outboxes[rank].put(_GOODBYE)

    def _speak(self, rank: int) -> None:
        """Send all that is for a rank, in a thread, so that no interrupt cuts a message short."""
        outbox, left = self._outboxes[rank], False
        while not left:
            messages = [outbox.get()]
            while not outbox.empty():
                messages.append(outbox.get())
            with contextlib.suppress(RuntimeError):  # lost, as the other thread says
                self._move(dist.isend, rank, [part for parts in messages for part in parts])
            left = messages[-1] is _GOODBYE
            while messages:  # nothing sent is kept until the next is
                messages.pop()
                outbox.task_done()

    def _listen(self, rank: int) -> None:
        """Receive what a rank says, up to its goodbye, and answer that."""
        try:
            while length := self._length(rank):
                self._receive(rank, length)
            why = "it said goodbye"
        except Exception as error:  # whatever it is: who waits must know
            why = _said(error)
        self._leave(rank)
        with self.changed:
            self.lost[rank] = why
            self.changed.notify_all()

    def _receive(self, rank: int, length: int) -> None:
        """Receive a message, whose header is so long, for some agents of this rank."""
        header = torch.empty(length, dtype=torch.uint8)
        self._move(dist.irecv, rank, [header])
        (sender, homes), entries, places = room(bytes(header.numpy()))
        self._move(dist.irecv, rank, places)
        message = {key: value.to(self._device) for key, value in entries.items()}
        with self.changed:
            for to in homes[self.rank]:
                self.mail[rank, sender, to].append(message)
            self.changed.notify_all()

    def _length(self, rank: int) -> int:
        """Bytes of the next header, 0 for a goodbye."""
        length = torch.empty(1, dtype=torch.int64)
        self._move(dist.irecv, rank, [length])
        if not 0 <= (found := int(length)) <= MOST_HEADER:
            raise StructureError("it sends no message of this version of dimat")
        return found

    def _move(self, how: Callable[..., Any], rank: int, parts: Sequence[Tensor]) -> None:
        """Send tensors to a rank, or receive them from it, all at once."""
        for work in [how(part, rank, self._group) for part in parts if part.numel()]:
            work.wait(_EVER)


class Ranks(InProcess):
    """The transport of one block of agents, whose other agents are in other processes.

    No process may be missing: one that is lost ends the run.

    Args:
        peers: The other ranks.
        agents: Number of all agents.
    """

    def __init__(self, peers: Peers, agents: int) -> None:
        blocks = [block(agents, rank, peers.size) for rank in range(peers.size)]
        super().__init__(blocks[peers.rank])
        self._home = {agent: rank for rank, own in enumerate(blocks) for agent in own}
        self._peers = peers

    def run(
        self, talks: Mapping[int, Talk[Result]], traffic: Mapping[int, Traffic]
    ) -> dict[int, Result]:
        """Run the talks of this block to their end.

        Raises:
            ExchangeError: If a process that is waited for is lost.
        """
        results = super().run(talks, traffic)
        self._peers.finish()
        return results

    def post(self, sender: int, messages: Mapping[int, Message]) -> None:
        """Take messages on their way: one for several agents of a rank travels once."""
        apart: dict[int, list[list[int]]] = {}  # the agents of each rank, by message
        for to, message in messages.items():
            if self._home[to] == self._peers.rank:
                super().post(sender, {to: message})
            else:
                homes = apart.setdefault(id(message), [[] for _ in range(self._peers.size)])
                homes[self._home[to]].append(to)
        for homes in apart.values():
            message = messages[next(agents[0] for agents in homes if agents)]
            header, *entries = parts(message, [sender, homes])
            for rank, agents in enumerate(homes):
                if agents:
                    self._peers.send(rank, [torch.tensor([header.numel()]), header, *entries])

    def arrived(self, sender: int, to: int) -> bool:
        """Whether a message has arrived."""
        if self._home[sender] == self._peers.rank:
            return super().arrived(sender, to)
        return bool(self._peers.mail.get((self._home[sender], sender, to)))

    def fetch(self, sender: int, to: int) -> Message:
        """The first message that arrived."""
        if self._home[sender] == self._peers.rank:
            return super().fetch(sender, to)
        return self._peers.mail[self._home[sender], sender, to].popleft()

    def idle(self, waiting: Mapping[int, Step]) -> None:
        """Wait for a message from another process."""
        wanted = [
            (j, agent)
            for agent, step in waiting.items()
            for j in step.hear
            if self._home[j] != self._peers.rank and not self.arrived(j, agent)
        ]
        if any(all(self.arrived(j, i) for j in step.hear) for i, step in waiting.items()):
            return  # it came in the meantime
        if not wanted:
            super().idle(waiting)
        with self._peers.changed:
            while not any(self.arrived(j, agent) for j, agent in wanted):
                for rank in sorted({self._home[j] for j, _ in wanted} & {*self._peers.lost}):
                    raise ExchangeError(f"rank {rank} is lost: {self._peers.lost[rank]}")
                self._peers.changed.wait()


def _said(error: Exception) -> str:
    """What Gloo says, without where in its source and without its jokes."""
    return first_line(error).rpartition("] ")[2].partition(". This is typically")[0]
