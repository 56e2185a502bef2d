"""Sends that take their time, and edges that break: what races need to show."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from dimat.exchange.network.stream import Stream


def delay_sends(
    monkeypatch: pytest.MonkeyPatch, seed: int, most_s: float = 0.003, breaks: float = 0.0
) -> None:
    """Every piece waits before it is sent, some for long; a share of them finds its edge broken."""
    draw, outgoing = random.Random(seed), Stream.outgoing

    def slowly(self: Stream) -> Iterator[bytes]:
        for piece in outgoing(self):
            if draw.random() < 0.5:
                time.sleep(draw.random() * most_s * (10 if draw.random() < 0.05 else 1))
            if draw.random() < breaks:
                self.cancel("the edge breaks")
                return
            yield piece

    monkeypatch.setattr(Stream, "outgoing", slowly)
