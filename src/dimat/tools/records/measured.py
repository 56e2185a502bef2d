"""The curve of a run: what its agents came to, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """A measured round of one method.

    Args:
        round: Its number, from 0.
        accuracy: Mean test accuracy over the agents, a fraction in [0, 1]; None if not a number.
        used: What had been used of each resource when it was measured: bytes and steps of all
            agents together; seconds of a run in step (busy.py); None if not recorded.
    """

    round: int
    accuracy: float | None
    used: Mapping[str, float | None]


@dataclass(frozen=True)
class Curve:
    """One method over its rounds.

    Args:
        moments: Its measured rounds, in their order.
        total: What it used of each resource by the end of its last round.
    """

    moments: tuple[Moment, ...]
    total: Mapping[str, float | None]
