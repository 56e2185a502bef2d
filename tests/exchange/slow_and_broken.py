"""Sends that take their time, and edges that break: what races need to show."""

from __future__ import annotations

import random
import time

import pytest
from torch import Tensor

from dimat.exchange.network.pipe import Broken, Pipe


def delay_sends(
    monkeypatch: pytest.MonkeyPatch, seed: int, most_s: float = 0.003, breaks: float = 0.0
) -> None:
    """Every send waits first, some for long; a share of them finds its edge broken."""
    draw, send = random.Random(seed), Pipe.send

    def slowly(self: Pipe, tensor: Tensor, timeout_s: float) -> None:
        if draw.random() < 0.5:
            time.sleep(draw.random() * most_s * (10 if draw.random() < 0.05 else 1))
        if draw.random() < breaks:
            self.close()
            raise Broken("the edge breaks")
        send(self, tensor, timeout_s)

    monkeypatch.setattr(Pipe, "send", slowly)
