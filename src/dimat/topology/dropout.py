"""Networks whose edges drop out at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import networkx as nx
import numpy as np

from dimat.errors import ConfigError
from dimat.topology.mixing import Matrix, keeps_sum
from dimat.topology.sequences import Periodic
from dimat.topology.spectral import shrinkage
from dimat.topology.topology import Topology

_SAMPLES = 200


@dataclass(frozen=True)
class Dropout:
    """A :class:`Network` in which every edge is missing at every time with some probability.

    The weight of a missing edge goes to the diagonal at both ends, so that a symmetric matrix stays
    symmetric; that of a directed edge goes to the sender's, so that columns still sum to 1.

    Args:
        base: The network without dropout.
        probability: Probability that an edge is missing, in [0, 1), independent of other edges and
            times.
        seed: Seed of the missing edges, >= 0: with the time it determines them.

    Raises:
        ConfigError: If the probability is out of its range.
    """

    base: Topology | Periodic
    probability: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise ConfigError(
                f"setting 'topology.dropout' is {self.probability}: must be in [0, 1)"
            )

    @property
    def name(self) -> str:
        """Name of the base."""
        return self.base.name

    @property
    def num_agents(self) -> int:
        """Number of agents."""
        return self.base.num_agents

    @property
    def graph(self) -> nx.Graph[int]:
        """Graph of the base: every edge exists at some time."""
        return self.base.graph

    @property
    def directed(self) -> bool:
        """Whether the base is directed."""
        return self.base.directed

    @property
    def doubly_stochastic(self) -> bool:
        """Whether the base is doubly stochastic and undirected: edges then go missing both ways."""
        return self.base.doubly_stochastic and not self.directed

    @property
    def period(self) -> None:
        """None: a network with dropout never repeats."""

    @cached_property
    def contraction(self) -> float:
        """The root mean squared factor, estimated over the first 200 periods of the base."""
        turns = self.base.period
        drawn = [self._drawn(time).pi for time in range(turns * _SAMPLES)]
        periods = [drawn[k : k + turns] for k in range(0, len(drawn), turns)]
        return shrinkage(periods, doubly_stochastic=self.doubly_stochastic)

    @property
    def spectral_gap(self) -> float:
        """1 - contraction."""
        return 1.0 - self.contraction

    def at(self, time: int) -> Topology:
        """The topology of the base at a time, without the edges that are missing then."""
        return self._recent(time)

    @cached_property
    def _recent(self) -> Callable[[int], Topology]:
        return lru_cache(maxsize=8)(self._drawn)  # all agents ask for a time, one after another

    def _drawn(self, time: int) -> Topology:
        base = self.base.at(time)
        edges = sorted(base.graph.edges if self.directed else map(_ordered, base.graph.edges))
        draws = np.random.default_rng((self.seed, time)).random(len(edges))
        missing = [edge for edge, draw in zip(edges, draws, strict=True) if draw < self.probability]
        graph = base.graph.copy()
        graph.remove_edges_from(missing)
        return Topology(self.name, graph, _without(base.pi, missing, both_ways=not self.directed))


def _ordered(edge: tuple[int, int]) -> tuple[int, int]:
    return min(edge), max(edge)


def _without(pi: Matrix, missing: list[tuple[int, int]], *, both_ways: bool) -> Matrix:
    """A mixing matrix without some edges, whose weights are moved to the diagonal."""
    rest = pi.copy()
    for speaker, listener in missing:
        rest[listener, speaker] = 0.0
        if both_ways:
            rest[speaker, listener] = 0.0
    axis = 0 if keeps_sum(pi) else 1
    rest[np.diag_indices_from(rest)] += pi.sum(axis) - rest.sum(axis)
    return rest
