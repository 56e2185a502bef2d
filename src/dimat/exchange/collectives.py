"""What an observer wants of all agents, and what one agent tells all: talks like any other.

Agent 0 lives in the process that writes the run folder. These talks run on the same transport as
those of the methods, but with counters of their own: watching is no part of a method's traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from dimat.exchange.protocol import Message, Step, Talk, Traffic, Transport
from dimat.exchange.tree import Tree, as_message, tree_of

OBSERVER = 0
Result = TypeVar("Result")


def gather(agent: int, agents: int, message: Message) -> Talk[list[Message]]:
    """Every agent's message, in order, for agent 0; nothing for the others."""
    if agent != OBSERVER:
        yield Step({OBSERVER: message})
        return []
    others = [j for j in range(agents) if j != OBSERVER]
    inbox = yield Step(hear=others)
    return [message, *(inbox[j] for j in others)]


def scatter(agent: int, agents: int, messages: Mapping[int, Message]) -> Talk[Message]:
    """What agent 0 has for each, by agent; the others give nothing."""
    if agent != OBSERVER:
        inbox = yield Step(hear=[OBSERVER])
        return inbox[OBSERVER]
    yield Step({j: messages[j] for j in range(agents) if j != OBSERVER})
    return messages[OBSERVER]


@dataclass(frozen=True)
class Collectives:
    """All agents of a method; every process calls what is here alike.

    Args:
        transport: Between all agents; it knows which live in this process.
        size: How many there are altogether.
    """

    transport: Transport
    size: int

    @property
    def observes(self) -> bool:
        """Whether agent 0 lives here."""
        return OBSERVER in self.transport.agents

    def run(self, talks: Mapping[int, Talk[Result]]) -> dict[int, Result]:
        """What the talks of this process's agents return, by agent."""
        return self.transport.run(talks, {i: Traffic() for i in talks})

    def gather(self, trees: Mapping[int, Tree]) -> list[Tree]:
        """Bring what every agent has to agent 0's process, in order; elsewhere nothing is found.

        Args:
            trees: For each agent of this process.
        """
        talks = {i: gather(i, self.size, as_message(tree)) for i, tree in trees.items()}
        return [tree_of(message) for message in self.run(talks).get(OBSERVER, [])]

    def scatter(self, trees: Mapping[int, Tree]) -> dict[int, Tree]:
        """Bring what agent 0's process has for each agent to it; of this process's, by agent.

        Args:
            trees: For each of all agents, in agent 0's process; elsewhere it is not looked at.
        """
        messages = {i: as_message(tree) for i, tree in trees.items()} if self.observes else {}
        heard = self.run({i: scatter(i, self.size, messages) for i in self.transport.agents})
        return {i: tree_of(message) for i, message in heard.items()}

    def tell(self, value: Tree) -> Tree:
        """Agent 0's process says one thing, every process hears it.

        Args:
            value: What is said; only that of agent 0's process matters.
        """
        # Encoded and decoded once: what is said of all agents is as long as there are agents.
        messages = dict.fromkeys(range(self.size), as_message(value)) if self.observes else {}
        heard = self.run({i: scatter(i, self.size, messages) for i in self.transport.agents})
        return tree_of(heard[self.transport.agents[0]])

    def any(self, values: Iterable[bool]) -> bool:
        """Whether something holds for any agent of any process.

        Args:
            values: Whether it does, for each agent of this process, in order.
        """
        own = dict(zip(self.transport.agents, values, strict=True))
        return bool(self.tell(any(self.gather(own))))
