"""An agent that comes late, or comes back: whether it is mixed, listens first, or starts afresh.

What it has is worth nothing to others until it fits: a random network merged with weight 1/3 would
poison its neighbors. So it says of itself how far it is, and whether it is to be mixed.
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
from dimat.methods import RoundContext, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.topology import Network, Topology, near

_BEHIND = 1  # rounds that neighbors may be apart without one of them having been away
_COMMON = "the last round that all have done"
_AGREED = "the round that each goes on from"
_ROUND = "/round"  # no state has an entry of this name: modules are not named with a slash
_STILL = 0.9  # of the disagreement before: falls less than that, and listening is of no more use
_NEAR = 2.0  # times the neighbors' own disagreement


def check_lasting(network: Network) -> None:
    """Refuse a graph that varies: agents that miss each other would not agree on which it is.

    Raises:
        TopologyError: If it does.
    """
    if network.period != 1:
        raise TopologyError(
            f"topology '{network.name}' varies from round to round, and agents that may miss each "
            "other can be rounds apart: use a fixed graph here (torchrun runs those that vary)"
        )


def most_bytes(state_bytes: int) -> int:
    """The largest message that is let in, for a state of that size: one with Adam's memory fits."""
    return 4 * state_bytes + (1 << 20)


class MembershipStatus(Enum):
    """What an agent is to its neighbors."""

    CURRENT = "current"  # mixes and is mixed
    STALE = "stale"  # mixes and is not mixed, until it is near enough
    NEW = "new"  # has nothing yet: takes over the state of one neighbor


@dataclass
class Membership:
    """What an agent is to its neighbors, from round to round.

    Args:
        hood: Its neighbors.
        standing: What it is to them.
        disagreement: How far it was from its neighbors at its last merge, if it heard any.
        resumed: Whether it goes on from a checkpoint and has not exchanged since.
        joined: Whether it ever exchanged with somebody who was not listening.
        rounds: The last round that there can be.
        pace: What its neighbors can have done while it was away.
        clock: Seconds, which go on while the process does not.
    """

    hood: Neighborhood
    standing: MembershipStatus = MembershipStatus.CURRENT
    disagreement: float | None = None
    resumed: bool = False
    joined: bool = False
    rounds: int = 2**31
    pace: Pace = field(default_factory=Pace)
    clock: Callable[[], float] = time.time

    def kept(self) -> dict[str, Any]:
        """What belongs in the agent's checkpoint, as JSON."""
        return {
            "standing": self.standing.value,
            "disagreement": self.disagreement,
            "joined": self.joined,
            "pace": self.pace.kept(),
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from what :meth:`kept` gave."""
        self.standing = MembershipStatus(kept["standing"])
        self.disagreement, self.joined = kept["disagreement"], bool(kept["joined"])
        self.pace = Pace.of(kept.get("pace", {}))
        self.resumed = True

    def common_round(self, agent: int, network: Network, done: int, kept: Collection[int]) -> int:
        """The last round that all agents have done, if all were stopped and all go on now.

        Neighbors may have been stopped a round apart: one that has gone further goes back, and so
        the run is the one that it would have been. Who goes on beside agents that were not stopped
        keeps what it has done.

        Args:
            agent: Its number.
            network: The graph of all.
            done: The round that it has done.
            kept: Rounds that it can go back to.
        """
        news, others = self.hood.news(), near(network, agent)
        if not others or not all(news.get(j, {}).get("resumed") for j in others):
            return done
        talk = _earliest(others, done, nx.diameter(network.graph.to_undirected()))
        common = self.hood.run({agent: talk}, {agent: Traffic()}, _COMMON)[agent]
        if common in kept:
            done = common
        self.hood.saying = {**self.hood.saying, "round": done}  # as neighbors should know it
        self.hood.run({agent: _earliest(others, done, 1)}, {agent: Traffic()}, _AGREED)
        return done

    def catch_up(self, done: int, gauge: GaugeId | None, *, empty_handed: bool = False) -> int:
        """Find out whether others have gone on meanwhile; the round that is done then.

        An agent that is more than a round behind, or behind at all and new to them, goes on where
        they are. If it is in the unit order of one of them and known to them, it is mixed as
        before; otherwise it listens first.

        Most of those who say anything have to be as far; on one voice, half of the rounds that are
        left is the most, and the last round is never skipped. Nor is believed what others cannot
        have done since it was last where they were, by the clock and its own pace: if they did, it
        meets them some rounds later. Where some say that they are ahead of one that is new to them,
        and most do not, it stays where it is and listens first: that costs little if they lie, and
        if they do not it would poison them.

        Args:
            done: The round that it has done itself.
            gauge: Whose unit order its state is in.
            empty_handed: Whether it has no state that was trained.
        """
        slack = _BEHIND if self.joined else 0
        self.pace.begin(self.clock(), done)
        settled = [x for x in self.hood.news().values() if not x.get("quiet")]
        said = sorted((self._round(x) for x in settled), reverse=True)
        if not said:
            return done
        common = said[len(said) // 2]  # the furthest that more than half have done
        ahead = min(common, self._most(done, len(said)))
        if common <= done + slack:
            self.pace.meet(done)
        if ahead <= done + slack:
            if (
                said[0] > done + slack
                and not self.joined
                and self.standing is MembershipStatus.CURRENT
            ):
                self.standing = MembershipStatus.STALE
            return done
        if empty_handed or self.standing is MembershipStatus.NEW:
            self.standing = MembershipStatus.NEW
        elif not self.joined or not any(x.get("gauge") == _gauge(gauge) for x in settled):
            self.standing = MembershipStatus.STALE
        self.pace.done = ahead
        if ahead == common or math.isinf(self.pace.reach):
            self.pace.meet(ahead)
        return ahead

    def _most(self, done: int, voices: int) -> int:
        """The last round that others are believed to have done, if so many say how far they are."""
        most = self.rounds - 1 if voices > 1 else done + (self.rounds - done) // 2
        return int(min(most, self.pace.reach))

    def _round(self, news: Mapping[str, Any]) -> int:
        """The round that a neighbor says it has done; 0 if it says nothing of sense."""
        value = news.get("round")
        return value if type(value) is int and 0 <= value <= self.rounds else 0

    def speak(self, done: int, gauge: GaugeId | None) -> None:
        """What goes along with all that is said from now on."""
        self.hood.quiet = self.standing is not MembershipStatus.CURRENT
        self.hood.saying = {
            "round": done,
            "gauge": _gauge(gauge),
            "disagreement": self.disagreement,
            "resumed": self.resumed,
        }

    def member(self, me: RoundContext) -> RoundContext:
        """What it brings to a merge.

        Who listens brings no order of its own, so that it follows whatever order it hears. Who has
        nothing has all its weight on one neighbor, or on itself where there is none to take over.
        """
        if self.standing is MembershipStatus.STALE:
            return replace(me, gauge=None)
        if self.standing is MembershipStatus.CURRENT:
            return me
        weights = dict(zip(me.neighbors, me.weights[1:], strict=True))
        settled = [j for j, x in self.hood.news().items() if j in weights and not x.get("quiet")]
        leader = max(settled, key=lambda j: (weights[j], -j), default=me.agent)
        return replace(me, topology=_listening_to(me.topology, me.agent, leader))

    def noticed(self) -> None:
        """Those that it exchanged with in the last run know it, whatever comes of the merge."""
        if any(not x.get("quiet") for x in self.hood.heard.values()):
            self.joined = self.pace.together = True

    def after(self, merged: RoundResult) -> None:
        """What it is to its neighbors after a merge."""
        before, self.disagreement = self.disagreement, merged.disagreement
        self.resumed = False
        self.noticed()
        if merged.disagreement is None:
            return  # it mixed with nobody
        if self.standing is MembershipStatus.NEW:
            if merged.disagreement > 0:  # else it did not hear the one that it wanted to take over
                self.standing = MembershipStatus.CURRENT
            self.disagreement = None
        elif self.standing is MembershipStatus.STALE:
            theirs = [_distance(x.get("disagreement")) for x in self.hood.heard.values()]
            known = [x for x in theirs if x is not None]
            close = not known or merged.disagreement <= _NEAR * statistics.median(known)
            # Listening brings it no nearer: what is left is what they and it learn differently.
            still = before is not None and merged.disagreement > _STILL * before
            if close or still:
                self.standing = MembershipStatus.CURRENT


def _earliest(others: Sequence[int], done: int, steps: int) -> Talk[int]:
    """The least of all agents' numbers, told on from neighbor to neighbor; ours if one is lost."""
    known = done
    for _ in range(steps):
        message = {_ROUND: torch.tensor([known])}
        inbox = yield Step(dict.fromkeys(others, message), others, _admit_round)
        if len(inbox) < len(others):
            return done
        known = min(known, *(int(message[_ROUND]) for message in inbox.values()))
    return known


def _admit_round(other: int, message: Message) -> None:
    value = message.get(_ROUND)
    if value is None or value.shape != (1,) or value.dtype != torch.int64 or int(value) < 0:
        raise StructureError(
            f"message from agent {other} does not fit: '{_ROUND}' must be one whole number >= 0"
        )


def _listening_to(topology: Topology, agent: int, leader: int) -> Topology:
    """The same, but an agent has all its weight on one other."""
    pi = topology.pi.copy()
    pi[agent] = 0.0
    pi[agent, leader] = 1.0
    return replace(topology, pi=pi)


def _gauge(gauge: GaugeId | None) -> list[int] | None:
    return None if gauge is None else gauge.parts


def _distance(value: Any) -> float | None:
    """A disagreement as a neighbor says it; None if it is no distance."""
    good = type(value) in (int, float) and 0 <= value < float("inf")
    return float(value) if good else None
