r"""Accuracy at an equal budget: what a method had reached when it had used no more than another.

The budget of a resource :math:`X` (bytes, steps, time) is the smallest total among the methods
that use it at all. What a method reached with it is the accuracy of its last measured round whose
cumulative use does not exceed the budget: measured, never interpolated or extrapolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dimat.tools.records.curve import Curve, Measurement

RESOURCES: Mapping[str, Callable[[Measurement], float | None]] = {
    "sent_bytes": lambda measured: measured.sent_bytes,
    "steps": lambda measured: measured.steps,
    "busy_s": lambda measured: measured.busy_s,
}
# Equal uses may be summed in different orders; agents that step together take the mean number of
# steps of a round, rounded to whole ones.
_SLACK = {"sent_bytes": 1e-9, "steps": 0.01, "busy_s": 1e-9}


def budget(curves: Sequence[Curve], resource: str) -> float | None:
    """The smallest total of a resource among those that use it; None if none does."""
    totals = [RESOURCES[resource](curve.end) for curve in curves]
    return min((total for total in totals if total), default=None)


def reached(curve: Curve, resource: str, limit: float | None) -> float | None:
    """The accuracy of the last measured round that had not used more than ``limit``.

    Returns:
        A fraction; None if there is no limit, or no such round, or its use was not recorded.
    """
    if limit is None:
        return None
    most = limit * (1 + _SLACK[resource])
    use = RESOURCES[resource]
    within = [x for x in curve.rounds if (used := use(x)) is not None and used <= most]
    return within[-1].accuracy if within else None


def at_equal(curves: Mapping[str, Curve]) -> dict[str, dict[str, float | None]]:
    """For each method, and each resource, what it reached with the common budget.

    Args:
        curves: Those of the methods of one cell, which set out from the same agents.
    """
    limits = {resource: budget([*curves.values()], resource) for resource in RESOURCES}
    return {
        name: {resource: reached(curve, resource, limit) for resource, limit in limits.items()}
        for name, curve in curves.items()
    }
