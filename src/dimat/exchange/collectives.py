"""Collectives between all agents of a run: gather, scatter and broadcast, for the run folder.

Agent 0 lives in the process that writes the run folder. Collectives run on the same transport as
methods, but with counters of their own: to observe is no part of a method's traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from dimat.exchange.protocol import Message, Step, Talk, Traffic, Transport
from dimat.exchange.tree import Tree, as_message, plain, tree_of

OBSERVER = 0
Result = TypeVar("Result")


def gather(agent: int, agents: int, message: Message) -> Talk[list[Message]]:
    """The talk by which agent 0 hears every agent's message; the result is empty at others.

    Args:
        agent: Number of this agent.
        agents: Number of all agents.
        message: Message of this agent.
    """
    if agent != OBSERVER:
        yield Step({OBSERVER: message})
        return []
    others = [j for j in range(agents) if j != OBSERVER]
    inbox = yield Step(hear=others)
    return [message, *(inbox[j] for j in others)]


def scatter(agent: int, agents: int, messages: Mapping[int, Message]) -> Talk[Message]:
    """The talk by which every agent hears the message that agent 0 has for it.

    Args:
        agent: Number of this agent.
        agents: Number of all agents.
        messages: Messages by agent, at agent 0; not read at others.
    """
    if agent != OBSERVER:
        inbox = yield Step(hear=[OBSERVER])
        return inbox[OBSERVER]
    yield Step({j: messages[j] for j in range(agents) if j != OBSERVER})
    return messages[OBSERVER]


@dataclass(frozen=True)
class Collectives:
    """Collectives between all agents; every process calls the same ones in the same order.

    Args:
        transport: Transport between all agents, which knows those of this process.
        size: Number of all agents.
    """

    transport: Transport
    size: int

    @property
    def observes(self) -> bool:
        """Whether agent 0 lives in this process."""
        return OBSERVER in self.transport.agents

    def run(self, talks: Mapping[int, Talk[Result]]) -> dict[int, Result]:
        """The results of the talks of this process's agents, by agent.

        Args:
            talks: The talk of each agent of this process.
        """
        return self.transport.run(talks, {i: Traffic() for i in talks})

    def gather(self, trees: Mapping[int, Tree]) -> list[Tree]:
        """The trees of all agents in order, in the process of agent 0; elsewhere an empty list.

        Args:
            trees: One tree for each agent of this process.
        """
        if len(trees) == self.size:  # nothing to send; lists for tuples, as messages have them
            return [plain(trees[i]) for i in range(self.size)]
        talks = {i: gather(i, self.size, as_message(tree)) for i, tree in trees.items()}
        return [tree_of(message) for message in self.run(talks).get(OBSERVER, [])]

    def scatter(self, trees: Mapping[int, Tree]) -> dict[int, Tree]:
        """The trees for the agents of this process, out of those in the process of agent 0.

        Args:
            trees: One tree for each of all agents, in the process of agent 0; not read elsewhere.
        """
        messages = {i: as_message(tree) for i, tree in trees.items()} if self.observes else {}
        heard = self.run({i: scatter(i, self.size, messages) for i in self.transport.agents})
        return {i: tree_of(message) for i, message in heard.items()}

    def tell(self, value: Tree) -> Tree:
        """Broadcast a value from the process of agent 0 to every process.

        Args:
            value: The value in the process of agent 0; not read elsewhere.
        """
        # Encoded and decoded once: what is said of all agents is as long as there are agents.
        messages = dict.fromkeys(range(self.size), as_message(value)) if self.observes else {}
        heard = self.run({i: scatter(i, self.size, messages) for i in self.transport.agents})
        return tree_of(heard[self.transport.agents[0]])

    def any(self, values: Iterable[bool]) -> bool:
        """Whether a condition holds for any agent of any process.

        Args:
            values: For each agent of this process, in order, whether it holds.
        """
        own = dict(zip(self.transport.agents, values, strict=True))
        return bool(self.tell(any(self.gather(own))))
