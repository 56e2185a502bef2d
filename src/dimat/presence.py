"""An agent that comes late, or comes back: whether it is mixed, listens first, or starts afresh.

What it has is worth nothing to others until it fits: a random network merged with weight 1/3 would
poison its neighbors. So it says of itself how far it is, and whether it is to be mixed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from dimat.exchange.neighborhood import Neighborhood
from dimat.matching.gauge import GaugeId
from dimat.methods import Member, Merged
from dimat.topology import Topology

_BEHIND = 1  # rounds that neighbors may be apart without one of them having been away
_NEAR = 2.0  # times the neighbors' own disagreement


class Standing(Enum):
    """What an agent is to its neighbors."""

    CURRENT = "current"  # mixes and is mixed
    STALE = "stale"  # mixes and is not mixed, until it is near enough
    NEW = "new"  # has nothing yet: takes over the state of one neighbor


@dataclass
class Presence:
    """What an agent is to its neighbors, from round to round.

    Args:
        hood: Its neighbors.
        standing: What it is to them.
        disagreement: How far it was from its neighbors at its last merge, if it heard any.
    """

    hood: Neighborhood
    standing: Standing = Standing.CURRENT
    disagreement: float | None = None

    def catch_up(self, done: int, gauge: GaugeId | None, *, empty_handed: bool = False) -> int:
        """Find out whether others have gone on meanwhile; the round that is done then.

        An agent that is more than a round behind goes on where they are. If it is in the unit order
        of one of them it is mixed as before; otherwise it listens first.

        Args:
            done: The round that it has done itself.
            gauge: Whose unit order its state is in.
            empty_handed: Whether it has no state that was trained.
        """
        settled = [x for x in self.hood.news().values() if not x.get("quiet")]
        ahead = max((_round(x) for x in settled), default=0)
        if ahead <= done + (0 if empty_handed else _BEHIND):
            return done
        known = [_gauge(gauge), *([None] if gauge is None else [])]
        if empty_handed:
            self.standing = Standing.NEW
        elif done == 0 or not any(x.get("gauge") in known for x in settled):
            self.standing = Standing.STALE
        return ahead

    def speak(self, done: int, gauge: GaugeId | None) -> None:
        """What goes along with all that is said from now on."""
        self.hood.quiet = self.standing is not Standing.CURRENT
        self.hood.saying = {
            "round": done,
            "gauge": _gauge(gauge),
            "disagreement": self.disagreement,
        }

    def member(self, me: Member) -> Member:
        """What it brings to a merge: with nothing of its own, all its weight is on one neighbor."""
        if self.standing is not Standing.NEW:
            return me
        weights = dict(zip(me.neighbors, me.weights[1:], strict=True))
        settled = [j for j, x in self.hood.news().items() if j in weights and not x.get("quiet")]
        if not settled:
            return me
        model = max(settled, key=lambda j: (weights[j], -j))
        return replace(me, topology=_listening_to(me.topology, me.agent, model))

    def after(self, merged: Merged) -> None:
        """What it is to its neighbors after a merge."""
        self.disagreement = merged.disagreement
        if merged.disagreement is None:
            return  # it heard nobody
        if self.standing is Standing.NEW:
            self.standing, self.disagreement = Standing.CURRENT, None
        elif self.standing is Standing.STALE:
            theirs = [x.get("disagreement") for x in self.hood.heard.values()]
            known = [float(x) for x in theirs if x is not None]
            if not known or merged.disagreement <= _NEAR * statistics.median(known):
                self.standing = Standing.CURRENT


def _listening_to(topology: Topology, agent: int, model: int) -> Topology:
    """The same, but an agent has all its weight on one other."""
    pi = topology.pi.copy()
    pi[agent] = 0.0
    pi[agent, model] = 1.0
    return replace(topology, pi=pi)


def _gauge(gauge: GaugeId | None) -> list[int] | None:
    return None if gauge is None else [gauge.root, gauge.generation]


def _round(news: Mapping[str, Any]) -> int:
    value = news.get("round")
    return value if isinstance(value, int) else 0
