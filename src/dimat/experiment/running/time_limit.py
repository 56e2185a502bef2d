"""How long a run may take before it stops where it can go on."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path


def now() -> float:
    """Seconds by a clock that never goes back."""
    return time.monotonic()


@dataclass(frozen=True)
class TimeLimit:
    """Wall time that one process may spend on a run, from when this value is made.

    It is looked at only after something was done, so that every process gets on, however short its
    time is.

    Args:
        seconds: How many, > 0; None: without end.
        began: When it began, by :func:`now`.
    """

    seconds: float | None = None
    began: float = field(default_factory=lambda: now())

    @property
    def limits(self) -> bool:
        """Whether there is an end: then all processes ask that of agent 0."""
        return self.seconds is not None

    @property
    def is_up(self) -> bool:
        """Whether all of it is spent."""
        return self.seconds is not None and now() - self.began >= self.seconds

    def end(self, reached: str, folder: Path) -> str:
        """What to say to whoever waits for the run.

        Args:
            reached: How far it is.
            folder: The run folder.
        """
        return (
            f"stopped after {now() - self.began:.1f} s (max_wall_s {self.seconds:g}), done: "
            f"{reached}; 'dimat resume {shlex.quote(str(folder))}' goes on"
        )


ENDLESS = TimeLimit()
