"""Seconds of a task on a device, measured within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds(device: str, task: Callable[[], object]) -> float:
    """Wall seconds of one call, until the device has done all of it."""
    start = clock(device)
    task()
    return clock(device) - start


def each(device: str, task: Callable[[], object], budget_s: float, most: int = 10_000) -> float:
    """Mean seconds of a call: after one that warms up, as many as the budget allows, at least 1.

    Args:
        device: Where it computes.
        task: Called again and again.
        budget_s: When this much is spent no further call is begun.
        most: Calls at most.
    """
    first = seconds(device, task)
    if first > budget_s:
        return first
    spent, calls = 0.0, 0
    while calls < most and (calls == 0 or spent + spent / calls < budget_s):
        spent += seconds(device, task)
        calls += 1
    return spent / calls


def clock(device: str) -> float:
    """Seconds of a clock, once the device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()
