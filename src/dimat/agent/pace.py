"""The pace of an agent: a bound on the rounds that its neighbors can have done, by the clock."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FASTER = 4.0  # largest ratio of a neighbor's pace to one's own, where it does not wait for us
_TOGETHER = 1.1  # rounds of a neighbor in one of ours with an exchange: 1, more to catch up
_USUAL = 2.0  # ratio to the median round time above which our process is taken to have hung
_LATEST = 9  # latest rounds whose times are kept


@dataclass
class Pace:
    """The pace of an agent, and the furthest round that its neighbors can have done.

    Args:
        took_s: Seconds that the agent's latest rounds took.
        reach: The furthest round that neighbors can have done when the agent's last round began;
            infinite until the agent has once been in their round.
        began: Time when that round began, in seconds.
        done: The last round that the agent had done by then; None after a restart.
        together: Whether it has exchanged since with a neighbor that waits for it.
    """

    took_s: Sequence[float] = ()
    reach: float = math.inf
    began: float | None = None
    done: int | None = None
    together: bool = False

    def begin(self, now: float, done: int) -> None:
        """Begin a round: extend ``reach`` by what neighbors can have done since the last one.

        Args:
            now: Time in seconds.
            done: The last round that the agent has done.
        """
        if self.began is not None:
            took_s = max(now - self.began, 0.0)  # a clock may be set back
            self.reach += self._rounds(took_s)
            if self.done is not None and done == self.done + 1:
                self.took_s = (*self.took_s, took_s)[-_LATEST:]
        self.began, self.done, self.together = now, done, False

    def meet(self, done: int) -> None:
        """Note that the neighbors have done round ``done``, and are in the next one at most."""
        self.reach = done + 1

    def _rounds(self, took_s: float) -> float:
        """The rounds that a neighbor can have done in so many seconds."""
        if not self.took_s:  # there is nothing to compare with before the first round is done
            return 1.0
        rounds = took_s / max(statistics.median(self.took_s), 1e-3)
        if self.together:
            return max(_TOGETHER, _FASTER * (rounds - _USUAL))
        return _FASTER * rounds

    def kept(self) -> dict[str, Any]:
        """The pace as JSON, for a checkpoint."""
        reach = None if math.isinf(self.reach) else self.reach
        # Without ``done``: the time that the process was away is not that of a round.
        return {"took_s": [*self.took_s], "reach": reach, "began": self.began}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Pace:
        """The pace from a checkpoint; empty for checkpoints of versions that kept none.

        Args:
            kept: The value that :meth:`kept` returned.
        """
        reach = kept.get("reach")
        took_s = tuple(kept.get("took_s", ()))
        return cls(took_s, math.inf if reach is None else reach, kept.get("began"))
