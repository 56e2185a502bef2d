"""The summary of a run: the numbers of its last round, and the number of its best round."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from dimat.experiment.config.config import RunConfig
from dimat.experiment.record.lines import Line
from dimat.metric import Metric
from dimat.tasks import TASKS


def summarize(
    config: RunConfig,
    method: str,
    phase: str,
    ends: Sequence[Line],
    best: int,
    wall_s: float,
) -> dict[str, object]:
    """The content of ``summary.json``.

    Args:
        config: Settings of the run.
        method: Registry name of the method that was run.
        phase: merged or trained: the phase whose accuracies are in ``test_accuracy_…``, or values
            of another main metric in keys of its name; the means of both phases, and of the agents
            before round 1, have keys of their own.
        ends: The lines of metrics of the first round, 0, and of the last.
        best: The best round.
        wall_s: Wall time of the run in seconds.
    """
    metric = TASKS[config.task].metrics[0]
    name = metric.name
    last = [x[f"test_{name}"] for x in select(ends, config.rounds, phase)]
    known = [x for x in last if x is not None]  # a value that is not finite is null
    whole = len(known) == len(last)
    final = select(ends, config.rounds, "trained")
    return {
        "method": method,
        "phase": phase,
        f"test_{name}_mean": statistics.fmean(known) if whole else None,
        f"test_{name}_{'min' if metric.higher_is_better else 'max'}": (
            metric.worst(known) if whole else None
        ),
        f"test_{name}_std": statistics.pstdev(known) if whole else None,
        f"start_{name}_mean": _mean(ends, 0, "trained", name),
        f"merged_{name}_mean": _mean(ends, config.rounds, "merged", name),
        f"trained_{name}_mean": _mean(ends, config.rounds, "trained", name),
        "best_round": best,
        "rounds": config.rounds,
        "agents": len(final),
        "sent_bytes": sum(x["sent_bytes"] for x in final),
        "wall_s": wall_s,
        "seed": config.seed,
    }


def select(lines: Iterable[Line], number: int, phase: str) -> list[Line]:
    """The lines of one round and phase, in the order of agents.

    Args:
        lines: Lines of metrics.
        number: The round, from 0 (after pre-training).
        phase: merged or trained.
    """
    return [x for x in lines if x["round"] == number and x["phase"] == phase]


def _mean(ends: Sequence[Line], number: int, phase: str, name: str) -> float | None:
    """Mean of a test metric over the agents in a phase of a round; None if there was none."""
    found = [x[f"test_{name}"] for x in select(ends, number, phase)]
    return statistics.fmean(found) if found and None not in found else None


def best_round(history: Iterable[Line], phase: str, metric: Metric) -> int:
    """The round with the best mean on the agents' validation samples; else the last round.

    Test samples play no part in the choice.

    Args:
        history: All lines of metrics.
        phase: merged or trained: the phase whose values are compared.
        metric: The metric that is compared.
    """
    values: dict[int, list[Any]] = defaultdict(list)  # None without validation samples
    for x in history:
        if x["phase"] == phase:
            values[x["round"]].append(x[f"validation_{metric.name}"])
    known = {r: statistics.fmean(own) for r, own in sorted(values.items()) if None not in own}
    best = max if metric.higher_is_better else min
    return best(known, key=lambda r: known[r]) if known else max(values)
