"""How methods match, combine and step: one value for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_NORM_RATIO = 10.0  # healthy agents: 2.2 at most, whatever their ages, docs/distributed.md


@dataclass(frozen=True)
class Settings:
    """How a method matches, combines and steps; each reads what concerns it.

    Args:
        gauge: tree (one unit order for all, at once), spread (one that neighbors take over from
            each other) or pairwise (each aligns its neighbors to itself).
        statistics: local, or pooled by the two ends of an edge.
        sweeps: Refinement sweeps when agents come into one gauge, >= 0.
        every: Rounds between matchings of all agents; 0: only those of different gauges match.
        drift: Share of an agent's units in (0, 1] that would rather change places, above which it
            is matched again; None: never.
        combine: Name of a combiner, for what is aligned.
        mix_memory: Whether the optimizers' memories are exchanged and averaged as well.
        order: Of a consensus step: combine (then adapt) or adapt (then combine).
        quiet_steps: Steps without exchange between two of swarm, or two spells of ldsgd, >= 0.
        mixing_steps: Steps with exchange in a spell of ldsgd, >= 1.
        outer_lr: Learning rate of diloco's outer step, > 0.
        outer_momentum: Its momentum, in [0, 1).
        seed: Of what agents have to draw alike, such as who meets whom.
        max_norm_ratio: A neighbor's state whose parameters have a norm more than this many times
            ours, or less than ours divided by it, is refused, >= 1; None: none is.
        once: The same, where there is one merge only; None: as ``gauge``.
    """

    gauge: Literal["tree", "spread", "pairwise"] = "tree"
    statistics: Literal["local", "pooled"] = "local"
    sweeps: int = 3
    every: int = 0
    drift: float | None = None
    combine: str = "average"
    mix_memory: bool = False
    order: Literal["combine", "adapt"] = "combine"
    quiet_steps: int = 4
    mixing_steps: int = 1
    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    seed: int = 0
    max_norm_ratio: float | None = MAX_NORM_RATIO
    once: Literal["tree", "spread", "pairwise"] | None = None
