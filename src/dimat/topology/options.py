"""What some graphs are made of besides their number of agents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GraphOptions:
    """Settings of graphs that are read or drawn.

    Args:
        path: File with one edge "i j" a line, for ``edges``.
        directed: In that file, "i j" means only that j hears i.
        degree: Neighbors of every agent, for ``random-regular``.
        probability: Of every edge, in [0, 1], for ``erdos-renyi``.
        seed: Of what is drawn, edges that drop out included; >= 0.
    """

    path: str | None = None
    directed: bool = False
    degree: int = 3
    probability: float = 0.5
    seed: int = 0


DEFAULTS = GraphOptions()
