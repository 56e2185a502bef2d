"""Busy time of a run whose agents go in step: the one definition of compare and report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def busy_s(phases: Iterable[Mapping[int, float | None]]) -> list[float | None]:
    """Seconds until the end of each phase: one lasts as long as its slowest agent computes.

    The others wait for that agent, so this is what the run would take with a device for each of
    them, without evaluation and without the way of a message.

    Args:
        phases: Measured phases in their order; for each agent the seconds that it had computed by
            the end of the phase, ``busy_s`` of ``metrics.jsonl``, None if not recorded.

    Returns:
        None from the first phase on in which an agent has no record.
    """
    found: list[float | None] = []
    before: dict[int, float] = {}
    total: float | None = 0.0
    for phase in phases:
        own = {agent: value for agent, value in phase.items() if value is not None}
        if total is None or len(own) < len(phase):
            total = None
        else:
            total += max(value - before.get(agent, 0.0) for agent, value in own.items())
            before.update(own)
        found.append(total)
    return found
