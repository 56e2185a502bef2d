"""All agents in one process: messages are handed over in memory, their bytes counted as if sent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dimat.exchange.protocol import Inbox, Message, Step, Talk, Traffic

Result = TypeVar("Result")


def run_all(talks: Sequence[Talk[Result]], traffic: Sequence[Traffic]) -> list[Result]:
    """Run every agent's talk to its end, each as far as its mail allows.

    Args:
        talks: One generator per agent, in order of agent number.
        traffic: One counter per agent; increased.

    Returns:
        What each talk returned.
    """
    mail: dict[tuple[int, int], deque[Message]] = {}
    waiting: dict[int, Step] = {}
    results: dict[int, Result] = {}

    def resume(agent: int, inbox: Inbox | None) -> None:
        start = time.perf_counter()
        try:
            step = next(talks[agent]) if inbox is None else talks[agent].send(inbox)
        except StopIteration as stop:
            results[agent] = stop.value
            waiting.pop(agent, None)
            return
        finally:
            traffic[agent].busy_s += time.perf_counter() - start
        for to, message in step.send.items():
            traffic[agent].count_sent(message)
            mail.setdefault((agent, to), deque()).append(message)
        waiting[agent] = step

    def collect(agent: int) -> Inbox | None:
        hear = waiting[agent].hear
        if not all(mail.get((j, agent)) for j in hear):
            return None
        inbox = {j: mail[j, agent].popleft() for j in hear}
        for message in inbox.values():
            traffic[agent].count_received(message)
        return inbox

    for agent in range(len(talks)):
        resume(agent, None)
    while waiting:
        ready = {i: inbox for i in sorted(waiting) if (inbox := collect(i)) is not None}
        assert ready, f"agents {sorted(waiting)} wait for messages that nobody sends"
        for agent, inbox in ready.items():
            resume(agent, inbox)
    return [results[i] for i in range(len(talks))]


@dataclass(frozen=True)
class InProcess:
    """The transport of a run in one process.

    Args:
        agents: All of them.
    """

    agents: Sequence[int]

    def run(
        self, talks: Mapping[int, Talk[Result]], traffic: Mapping[int, Traffic]
    ) -> dict[int, Result]:
        """Run every agent's talk to its end."""
        results = run_all([talks[i] for i in self.agents], [traffic[i] for i in self.agents])
        return dict(zip(self.agents, results, strict=True))
