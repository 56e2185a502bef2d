"""Membership: whether an agent that comes late or comes back is mixed, listens first, or is new.

The state of such an agent is harmful to its neighbors until it fits theirs: a random network
merged with weight 1/3 would poison them. So every agent announces its round, and whether its state
may be mixed.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import networkx as nx
import torch

from dimat.agent.pace import Pace
from dimat.errors import StructureError, TopologyError
from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.network.neighborhood import Neighborhood
from dimat.methods import Method, RoundContext, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.topology import Network, Topology, near

_BEHIND = 1  # rounds that neighbors may be apart though none of them has been away
_COMMON = "the last round that all have done"
_AGREED = "the round that each goes on from"
_ROUND = "/round"  # no state has an entry of this name: modules are not named with a slash
_STILL = 0.9  # ratio to the last disagreement above which further listening is of no use
_NEAR = 2.0  # ratio to the neighbors' own disagreement up to which an agent may be mixed


def check_lasting(network: Network) -> None:
    """Refuse a varying topology: agents that miss each other would not agree on its graph.

    Args:
        network: The topology at all times.

    Raises:
        TopologyError: If the graph varies.
    """
    if network.period != 1:
        raise TopologyError(
            f"topology '{network.name}' varies from round to round, and agents that may miss each "
            "other can be rounds apart: use a fixed graph here (torchrun runs those that vary)"
        )


def most_bytes(state_bytes: int, method: Method) -> int:
    """The size of the largest message that is accepted, in bytes.

    Args:
        state_bytes: Bytes of a state.
        method: The method whose messages they are.
    """
    return math.ceil(method.largest_message * state_bytes) + (1 << 20)


class MembershipStatus(Enum):
    """The status of an agent among its neighbors: current, stale or new."""

    CURRENT = "current"  # mixes and is mixed
    STALE = "stale"  # mixes and is not mixed, until it is near enough
    NEW = "new"  # has no trained state yet: takes over the state of one neighbor


@dataclass
class Membership:
    """The membership of an agent among its neighbors, kept up from round to round.

    Args:
        neighborhood: The transport between the agent and its neighbors.
        status: The agent's status among them.
        disagreement: Distance from the neighbors at the last merge, in parameter units; None if
            none was heard.
        resumed: Whether the agent goes on from a checkpoint and has not exchanged since.
        joined: Whether the agent ever exchanged with a neighbor that was not quiet.
        rounds: Number of the last round.
        pace: Bound on the rounds that neighbors can have done while the agent was away.
        clock: Gives the time in seconds; it must go on while the process is stopped.
    """

    neighborhood: Neighborhood
    status: MembershipStatus = MembershipStatus.CURRENT
    disagreement: float | None = None
    resumed: bool = False
    joined: bool = False
    rounds: int = 2**31
    pace: Pace = field(default_factory=Pace)
    clock: Callable[[], float] = time.time

    def kept(self) -> dict[str, Any]:
        """The membership as JSON, for the agent's checkpoint."""
        return {
            "standing": self.status.value,
            "disagreement": self.disagreement,
            "joined": self.joined,
            "pace": self.pace.kept(),
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Restore the membership from a checkpoint.

        Args:
            kept: The value that :meth:`kept` returned.
        """
        self.status = MembershipStatus(kept["standing"])
        self.disagreement, self.joined = kept["disagreement"], bool(kept["joined"])
        self.pace = Pace.of(kept.get("pace", {}))
        self.resumed = True

    def common_round(self, agent: int, network: Network, done: int, kept: Collection[int]) -> int:
        """The last round that all agents have done, if all were stopped and all go on now.

        Neighbors may have been stopped a round apart: an agent that is ahead then goes back, so
        that the run has the same numbers as one that was never stopped. An agent whose neighbors
        were not stopped keeps its own round.

        Args:
            agent: The agent's number.
            network: The topology of all agents.
            done: The last round that the agent has done.
            kept: Rounds that the agent has checkpoints of.

        Returns:
            The round to go on from.
        """
        news, others = self.neighborhood.news(), near(network, agent)
        if not others or not all(news.get(j, {}).get("resumed") for j in others):
            return done
        talk = _earliest(others, done, nx.diameter(network.graph.to_undirected()))
        common = self.neighborhood.run({agent: talk}, {agent: Traffic()}, _COMMON)[agent]
        if common in kept:
            done = common
        self.neighborhood.saying = {**self.neighborhood.saying, "round": done}
        self.neighborhood.run({agent: _earliest(others, done, 1)}, {agent: Traffic()}, _AGREED)
        return done

    def catch_up(self, done: int, gauge: GaugeId | None, *, empty_handed: bool = False) -> int:
        """Skip the rounds that the neighbors did meanwhile, and update the status.

        An agent that is more than a round behind, or behind at all and unknown to its neighbors,
        goes on in their round. If its state is in the unit order of one of them and they know it,
        it is mixed as before; otherwise it listens first (stale).

        More than half of the neighbors that announce a round must be that far; on a single voice
        the agent skips half of the rounds left at most, and the last round is never skipped. Rounds
        that the neighbors cannot have done since they were last together, by the clock and the
        agent's own pace, are not believed either: if they did do them, the agent catches up some
        rounds later. Where only some announce that they are ahead of an agent that is unknown to
        them, it stays in its round and listens first: that costs little if they lie, and keeps its
        state from poisoning them if they do not. Who has done the last round merges with nobody any
        more, so nobody skips rounds to be with it.

        Args:
            done: The last round that the agent has done itself.
            gauge: Id of the unit order that its state is in; its own order if None.
            empty_handed: Whether the agent has no trained state.

        Returns:
            The last round that counts as done: ``done``, or a later one.
        """
        slack = _BEHIND if self.joined else 0
        self.pace.begin(self.clock(), done)
        heard = [x for x in self.neighborhood.news().values() if not x.get("quiet")]
        settled = [x for x in heard if self._round(x) < self.rounds]
        said = sorted((self._round(x) for x in settled), reverse=True)
        if not said:
            return done
        common = said[len(said) // 2]  # the last round that more than half have done
        ahead = min(common, self._most(done, len(said)))
        if common <= done + slack:
            self.pace.meet(done)
        if ahead <= done + slack:
            if (
                said[0] > done + slack
                and not self.joined
                and self.status is MembershipStatus.CURRENT
            ):
                self.status = MembershipStatus.STALE
            return done
        if empty_handed or self.status is MembershipStatus.NEW:
            self.status = MembershipStatus.NEW
        elif not self.joined or not any(x.get("gauge") == _gauge(gauge) for x in settled):
            self.status = MembershipStatus.STALE
        self.pace.done = ahead
        if ahead == common or math.isinf(self.pace.reach):
            self.pace.meet(ahead)
        return ahead

    def _most(self, done: int, voices: int) -> int:
        """The last round that is believed of the neighbors if ``voices`` of them announce one."""
        most = self.rounds - 1 if voices > 1 else done + (self.rounds - done) // 2
        return int(min(most, self.pace.reach))

    def _round(self, news: Mapping[str, Any]) -> int:
        """The last round that a neighbor announces as done; 0 if it announces no valid one."""
        value = news.get("round")
        return value if type(value) is int and 0 <= value <= self.rounds else 0

    def speak(self, done: int, gauge: GaugeId | None) -> None:
        """Set the announcement that goes along with every message from now on.

        Args:
            done: The last round that the agent has done.
            gauge: Id of the unit order that its state is in; its own order if None.
        """
        self.neighborhood.quiet = self.status is not MembershipStatus.CURRENT
        self.neighborhood.saying = {
            "round": done,
            "gauge": _gauge(gauge),
            "disagreement": self.disagreement,
            "resumed": self.resumed,
        }

    def context(self, me: RoundContext) -> RoundContext:
        """The context of a merge, adapted to the agent's status.

        A stale agent has no gauge, so that it follows the unit order that it hears. A new agent has
        all its weight on one neighbor, or on itself where no neighbor has a state to take over.

        Args:
            me: The context as it is for a current agent.
        """
        if self.status is MembershipStatus.STALE:
            return replace(me, gauge=None)
        if self.status is MembershipStatus.CURRENT:
            return me
        weights = dict(zip(me.neighbors, me.weights[1:], strict=True))
        heard = self.neighborhood.news()
        settled = [j for j, x in heard.items() if j in weights and not x.get("quiet")]
        settled = [j for j in settled if self._round(heard[j]) < self.rounds] or settled
        leader = max(settled, key=lambda j: (weights[j], -j), default=me.agent)
        return replace(me, topology=_listening_to(me.topology, me.agent, leader))

    def noticed(self) -> None:
        """Note the neighbors that were heard: they know the agent now, even if the merge fails."""
        if any(not x.get("quiet") for x in self.neighborhood.heard.values()):
            self.joined = self.pace.together = True

    def after(self, result: RoundResult) -> None:
        """Update the status after a merge.

        Args:
            result: The result of the agent's merge.
        """
        before, self.disagreement = self.disagreement, result.disagreement
        self.resumed = False
        self.noticed()
        if result.disagreement is None:
            return  # it mixed with nobody
        if self.status is MembershipStatus.NEW:
            if result.disagreement > 0:  # else the neighbor to take over from was not heard
                self.status = MembershipStatus.CURRENT
            self.disagreement = None
        elif self.status is MembershipStatus.STALE:
            theirs = [_distance(x.get("disagreement")) for x in self.neighborhood.heard.values()]
            known = [x for x in theirs if x is not None]
            close = not known or result.disagreement <= _NEAR * statistics.median(known)
            # Listening brings it no nearer: the distance left comes from different shards.
            still = before is not None and result.disagreement > _STILL * before
            if close or still:
                self.status = MembershipStatus.CURRENT


def _earliest(others: Sequence[int], done: int, steps: int) -> Talk[int]:
    """The least ``done`` within ``steps`` edges, passed on step by step; ours if one is lost."""
    known = done
    for _ in range(steps):
        message = {_ROUND: torch.tensor([known])}
        inbox = yield Step(dict.fromkeys(others, message), others, _admit_round)
        if len(inbox) < len(others):
            return done
        known = min(known, *(int(message[_ROUND]) for message in inbox.values()))
    return known


def _admit_round(other: int, message: Message) -> None:
    """Refuse a message that is not one round number."""
    value = message.get(_ROUND)
    if value is None or value.shape != (1,) or value.dtype != torch.int64 or int(value) < 0:
        raise StructureError(
            f"message from agent {other} does not fit: '{_ROUND}' must be one whole number >= 0"
        )


def _listening_to(topology: Topology, agent: int, leader: int) -> Topology:
    """The topology with all weight of an agent on one other agent."""
    pi = topology.pi.copy()
    pi[agent] = 0.0
    pi[agent, leader] = 1.0
    return replace(topology, pi=pi)


def _gauge(gauge: GaugeId | None) -> list[int] | None:
    """A gauge id as JSON."""
    return None if gauge is None else gauge.parts


def _distance(value: Any) -> float | None:
    """A disagreement that a neighbor announces; None unless it is a finite number >= 0."""
    good = type(value) in (int, float) and 0 <= value < float("inf")
    return float(value) if good else None
