r"""Score, such as accuracy, at an equal budget: of the last round in which no more was used.

The budget of a resource :math:`X` (bytes, steps, time) is the smallest total among the methods
that use it at all. The accuracy of a method at the budget is that of its last measured round whose
cumulative use does not exceed it: measured, never interpolated or extrapolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dimat.tools.records.curve import Curve, Measurement

RESOURCES: Mapping[str, Callable[[Measurement], float | None]] = {
    "sent_bytes": lambda measured: measured.sent_bytes,
    "steps": lambda measured: measured.steps,
    "busy_s": lambda measured: measured.busy_s,
}
# Relative tolerances: what a method says beside its states (ids of unit orders, some bytes) is no
# reason to leave out its last round; agents that step together take the mean number of steps of a
# round, rounded to a whole one; sums of equal seconds may be rounded differently.
_SLACK = {"sent_bytes": 0.01, "steps": 0.01, "busy_s": 1e-9}


def budget(curves: Sequence[Curve], resource: str) -> float | None:
    """The smallest total of a resource among the methods that use it; None if none does.

    Args:
        curves: The curve of each method.
        resource: A key of ``RESOURCES``.
    """
    totals = [RESOURCES[resource](curve.end) for curve in curves]
    return min((total for total in totals if total), default=None)


def reached(curve: Curve, resource: str, limit: float | None) -> float | None:
    """The score of the last measured round that had not used more than ``limit``.

    Args:
        curve: The curve of a method.
        resource: A key of ``RESOURCES``.
        limit: The budget, in units of the resource.

    Returns:
        The main test metric; None if there is no limit, no such round, or no record of its use.
    """
    if limit is None:
        return None
    most = limit * (1 + _SLACK[resource])
    use = RESOURCES[resource]
    within = [x for x in curve.rounds if (used := use(x)) is not None and used <= most]
    return within[-1].score if within else None


def at_equal(curves: Mapping[str, Curve]) -> dict[str, dict[str, float | None]]:
    """The score at the common budget, by method and resource; None where there is none.

    Args:
        curves: The curves of the methods of one cell, which start from the same agents, by name.
    """
    limits = {resource: budget([*curves.values()], resource) for resource in RESOURCES}
    return {
        name: {resource: reached(curve, resource, limit) for resource, limit in limits.items()}
        for name, curve in curves.items()
    }
