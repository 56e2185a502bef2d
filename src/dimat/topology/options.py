"""Settings of graphs besides their number of agents."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

from dimat.errors import check_kind


@dataclass(frozen=True)
class GraphOptions:
    """Settings of graphs that are read or drawn.

    Args:
        path: File with one edge "i j" a line, for ``edges``.
        directed: Whether "i j" in that file means only that j hears i.
        degree: Number of neighbors of every agent, for ``random-regular``.
        probability: Probability of every edge, in [0, 1], for ``erdos-renyi``.
        seed: Seed of random graphs, and of edges that drop out; >= 0.

    Raises:
        ConfigError: If a setting is of another type.
    """

    path: str | None = None
    directed: bool = False
    degree: int = 3
    probability: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_kind("topology.degree", self.degree, Integral, "a whole number")
        check_kind("topology.probability", self.probability, Real, "a number in (0, 1]")
        check_kind("topology.seed", self.seed, Integral, "a whole number >= 0")


DEFAULTS = GraphOptions()
