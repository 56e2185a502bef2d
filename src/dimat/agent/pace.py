"""How many rounds others can have done meanwhile, by the clock and one's own pace."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FASTER = 4.0  # times one's own pace: so fast others may be, where they do not wait for us
_TOGETHER = 1.1  # rounds of theirs in one in which we exchange: one, and who is behind catches up
_USUAL = 2.0  # times the median: a round that takes longer is one in which we hung
_LATEST = 9  # rounds whose time is looked at


@dataclass
class Pace:
    """How far an agent's neighbors can be.

    Args:
        took_s: Seconds that its latest rounds took.
        reach: The round that neighbors can have done when its own last round began; any, as long as
            it has not been where they are.
        began: The clock then.
        done: The round that it had done itself; None if that is not where it went on.
        together: Whether it has exchanged since with one who had to wait for it.
    """

    took_s: Sequence[float] = ()
    reach: float = math.inf
    began: float | None = None
    done: int | None = None
    together: bool = False

    def begin(self, now: float, done: int) -> None:
        """A round begins: neighbors have gone on since the last one began."""
        if self.began is not None:
            took_s = max(now - self.began, 0.0)  # a clock may be set back
            self.reach += self._rounds(took_s)
            if self.done is not None and done == self.done + 1:
                self.took_s = (*self.took_s, took_s)[-_LATEST:]
        self.began, self.done, self.together = now, done, False

    def meet(self, done: int) -> None:
        """Its neighbors are in the round after this one, or will be in a moment."""
        self.reach = done + 1

    def _rounds(self, took_s: float) -> float:
        if not self.took_s:  # it has nothing to compare with until it has done a round
            return 1.0
        rounds = took_s / max(statistics.median(self.took_s), 1e-3)
        if self.together:
            return max(_TOGETHER, _FASTER * (rounds - _USUAL))
        return _FASTER * rounds

    def kept(self) -> dict[str, Any]:
        """The pace as JSON, for a checkpoint."""
        reach = None if math.isinf(self.reach) else self.reach
        return {"took_s": [*self.took_s], "reach": reach, "began": self.began}  # away: no round

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Pace:
        """What :meth:`kept` gave; a checkpoint from before there was a pace has none."""
        reach = kept.get("reach")
        took_s = tuple(kept.get("took_s", ()))
        return cls(took_s, math.inf if reach is None else reach, kept.get("began"))
