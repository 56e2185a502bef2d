"""How long an agent computes, without the time that it waits for others."""

from __future__ import annotations

import time
from types import TracebackType


class Timer:
    """Seconds spent inside ``with`` blocks; waiting for messages is not among them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds += time.perf_counter() - self._start
