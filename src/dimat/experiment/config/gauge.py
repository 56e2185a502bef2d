"""The gauge: how agents come into one unit order, and what ``matching.gauge`` auto means."""

from __future__ import annotations

from typing import Literal

from dimat.experiment.config.config import MatchingConfig
from dimat.experiment.config.rules import broken_rule


def gauge_of(
    matching: MatchingConfig, *, apart: bool = False, once: bool = False
) -> Literal["tree", "spread", "pairwise"]:
    """The gauge of agents that may be ``apart``, or that merge ``once``: no rounds to spread in.

    Raises:
        ConfigError: If other settings need one that all agents come into at once.
    """
    gauge = matching.gauge
    defaults = (("statistics", "local"), ("every", 0))
    if gauge == "auto":
        at_once = once or any(getattr(matching, name) != default for name, default in defaults)
        gauge = "spread" if apart or not at_once else "tree"
        if apart and once:
            gauge = "pairwise"
    for name, default in defaults:
        value = getattr(matching, name)
        if gauge == "spread" and value != default:
            rule = f"{default} where agents may miss each other (matching.gauge spread)"
            raise broken_rule(f"matching.{name}", value, rule)
    return gauge
