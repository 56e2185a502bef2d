"""The time limit of a run, after which it stops where it can be resumed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


def now() -> float:
    """Time in seconds by a clock that never goes back."""
    return time.monotonic()


@dataclass(frozen=True)
class TimeLimit:
    """The wall time that one process may spend on a run, counted from when this value is made.

    The limit is checked only after a unit of work, so that every process makes progress, however
    short its time is.

    Args:
        seconds: Wall time in seconds, > 0; None: no limit.
        began: Start of the wall time, by :func:`now`.
    """

    seconds: float | None = None
    began: float = field(default_factory=lambda: now())

    @property
    def limits(self) -> bool:
        """Whether there is a limit: all processes then ask agent 0's whether time is up."""
        return self.seconds is not None

    @property
    def is_up(self) -> bool:
        """Whether the time is spent."""
        return self.seconds is not None and now() - self.began >= self.seconds

    def end(self, reached: str, again: str) -> str:
        """The message of a run that stops at the limit.

        Args:
            reached: Progress of the run in words.
            again: What resumes it.
        """
        return (
            f"stopped after {now() - self.began:.1f} s (max_wall_s {self.seconds:g}), done: "
            f"{reached}; {again} goes on"
        )


ENDLESS = TimeLimit()
