"""All agents in one process: messages are handed over in memory, their bytes counted as if sent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dimat.exchange.protocol import Inbox, Message, Step, Talk, Traffic

Result = TypeVar("Result")


@dataclass
class InProcess:
    """The transport of agents that live together.

    What also carries messages between processes overrides ``post``, ``arrived``, ``fetch`` and
    ``idle``: agents are resumed in the same order on any transport.

    Args:
        agents: Their numbers, in order.
    """

    agents: Sequence[int]
    _mail: dict[tuple[int, int], deque[Message]] = field(default_factory=dict, repr=False)

    def run(
        self, talks: Mapping[int, Talk[Result]], traffic: Mapping[int, Traffic]
    ) -> dict[int, Result]:
        """Run every agent's talk to its end, each as far as its mail allows.

        Args:
            talks: One generator for each agent.
            traffic: One counter for each; increased.

        Returns:
            What each talk returned.
        """
        self._mail = {}
        waiting: dict[int, Step] = {}
        results: dict[int, Result] = {}

        def resume(agent: int, inbox: Inbox | None) -> None:
            """Take one talk to its next step, or to its end."""
            start = time.perf_counter()
            try:
                if inbox is None:
                    step = next(talks[agent])
                else:
                    _admit(waiting[agent], inbox)
                    step = talks[agent].send(inbox)
            except StopIteration as stop:
                results[agent] = stop.value
                waiting.pop(agent, None)
                return
            finally:
                traffic[agent].busy_s += time.perf_counter() - start
            for message in step.send.values():
                traffic[agent].count_sent(message)
            self.post(agent, step.send)
            waiting[agent] = step

        for agent in self.agents:
            resume(agent, None)
        while waiting:
            ready = {
                i: inbox
                for i in sorted(waiting)
                if (inbox := self._inbox(i, waiting[i])) is not None
            }
            if not ready:
                self.idle(waiting)
            for agent, inbox in ready.items():
                for message in inbox.values():
                    traffic[agent].count_received(message)
                resume(agent, inbox)
        return {i: results[i] for i in self.agents}

    def _inbox(self, agent: int, step: Step) -> Inbox | None:
        """All that an agent waits for; None if some of it is not there."""
        if not all(self.arrived(j, agent) for j in step.hear):
            return None
        return {j: self.fetch(j, agent) for j in step.hear}

    def post(self, sender: int, messages: Mapping[int, Message]) -> None:
        """Take the messages of a step on their way."""
        for to, message in messages.items():
            self._mail.setdefault((sender, to), deque()).append(message)

    def arrived(self, sender: int, to: int) -> bool:
        """Whether there is a message."""
        return bool(self._mail.get((sender, to)))

    def fetch(self, sender: int, to: int) -> Message:
        """The first message that arrived."""
        return self._mail[sender, to].popleft()

    def idle(self, waiting: Mapping[int, Step]) -> None:
        """Called when no agent can go on; returns when one may."""
        raise AssertionError(f"agents {sorted(waiting)} wait for messages that nobody sends")


def _admit(step: Step, inbox: Inbox) -> None:
    """Nothing is lost here: a message that must not be used ends the talk."""
    if step.admit is not None:
        for j, message in inbox.items():
            step.admit(j, message)


def run_all(talks: Sequence[Talk[Result]], traffic: Sequence[Traffic]) -> list[Result]:
    """Run every agent's talk to its end, all in this process.

    Args:
        talks: One generator per agent, in order of agent number.
        traffic: One counter per agent; increased.

    Returns:
        What each talk returned.
    """
    results = InProcess(range(len(talks))).run(dict(enumerate(talks)), dict(enumerate(traffic)))
    return [results[i] for i in range(len(talks))]
