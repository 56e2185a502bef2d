"""The summary of a run: the numbers of its last round, and the number of its best round."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from dimat.experiment.config.config import RunConfig
from dimat.experiment.record.lines import Line


def summarize(
    config: RunConfig, method: str, phase: str, history: Sequence[Line], wall_s: float
) -> dict[str, object]:
    """The content of ``summary.json``.

    Args:
        config: Settings of the run.
        method: Registry name of the method that was run.
        phase: merged or trained: the phase whose accuracies are in ``test_accuracy_…``; the means
            of both phases, and of the agents before round 1, have keys of their own.
        history: All lines of metrics.
        wall_s: Wall time of the run in seconds.
    """
    last = [x["test_accuracy"] for x in select(history, config.rounds, phase)]
    final = select(history, config.rounds, "trained")
    return {
        "method": method,
        "phase": phase,
        "test_accuracy_mean": statistics.fmean(last),
        "test_accuracy_min": min(last),
        "test_accuracy_std": statistics.pstdev(last),
        "start_accuracy_mean": _mean(history, 0, "trained"),
        "merged_accuracy_mean": _mean(history, config.rounds, "merged"),
        "trained_accuracy_mean": _mean(history, config.rounds, "trained"),
        "best_round": best_round(history, phase),
        "rounds": config.rounds,
        "agents": len(final),
        "sent_bytes": sum(x["sent_bytes"] for x in final),
        "wall_s": wall_s,
        "seed": config.seed,
    }


def select(history: Sequence[Line], number: int, phase: str) -> list[Line]:
    """The lines of one round and phase, in the order of agents.

    Args:
        history: All lines of metrics.
        number: The round, from 0 (after pre-training).
        phase: merged or trained.
    """
    return [x for x in history if x["round"] == number and x["phase"] == phase]


def _mean(history: Sequence[Line], number: int, phase: str) -> float | None:
    """Mean test accuracy over the agents in a phase of a round; None if there was no such phase."""
    found = [x["test_accuracy"] for x in select(history, number, phase)]
    return statistics.fmean(found) if found and None not in found else None


def best_round(history: Sequence[Line], phase: str) -> int:
    """The round with the best mean accuracy on the agents' validation images; else the last round.

    Test images play no part in the choice.

    Args:
        history: All lines of metrics.
        phase: merged or trained: the phase whose accuracies are compared.
    """
    values: dict[int, list[Any]] = defaultdict(
        list
    )  # accuracies, or None without validation images
    for x in history:
        if x["phase"] == phase:
            values[x["round"]].append(x["validation_accuracy"])
    known = {r: statistics.fmean(own) for r, own in sorted(values.items()) if None not in own}
    return max(known, key=lambda r: known[r]) if known else max(values)
