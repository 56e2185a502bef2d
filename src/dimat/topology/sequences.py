"""Networks that vary in time: topologies that take turns, and edges that drop out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import networkx as nx
import numpy as np

from dimat.errors import ConfigError
from dimat.topology.directed import hearing
from dimat.topology.graphs import powers_of_two
from dimat.topology.mixing import Matrix, keeps_sum
from dimat.topology.spectral import long_run_shrinkage, period_products, worst_shrinkage
from dimat.topology.topology import Network, Topology

_SAMPLES = 200


@dataclass(frozen=True)
class Periodic:
    """Topologies that take turns: a :class:`Network`.

    Args:
        name: How it was asked for.
        turns: One topology or more of the same agents; each need not be connected, all together
            must be.
    """

    name: str
    turns: tuple[Topology, ...]

    @property
    def num_agents(self) -> int:
        """Number of agents."""
        return self.turns[0].num_agents

    @cached_property
    def graph(self) -> nx.Graph[int]:
        """Who ever talks to whom."""
        return nx.compose_all([turn.graph for turn in self.turns])

    @property
    def directed(self) -> bool:
        """Whether the graphs are directed."""
        return self.turns[0].directed

    @cached_property
    def doubly_stochastic(self) -> bool:
        """Whether all mixing matrices are."""
        return all(turn.doubly_stochastic for turn in self.turns)

    @property
    def period(self) -> int:
        """The number of turns."""
        return len(self.turns)

    @cached_property
    def contraction(self) -> float:
        """The geometric mean, over a period, of the factors that shrink disagreement, in [0, 1]."""
        return _contraction(self, [self.turns])

    @property
    def spectral_gap(self) -> float:
        """1 - contraction."""
        return 1.0 - self.contraction

    def at(self, time: int) -> Topology:
        """The topology whose turn it is."""
        return self.turns[time % len(self.turns)]


@dataclass(frozen=True)
class Dropout:
    """A network in which every edge is missing at every time with some probability: a Network.

    What would have been listened to over a missing edge is replaced by the agent's own at both
    ends, so that a symmetric matrix stays symmetric; over a directed edge it stays with the sender,
    so that columns still sum to 1.

    Args:
        base: The network without dropout.
        probability: That an edge is missing, in [0, 1), independent of other edges and times.
        seed: Of what is missing, >= 0; together with the time it says which edges are.

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
        """The base's name."""
        return self.base.name

    @property
    def num_agents(self) -> int:
        """Number of agents."""
        return self.base.num_agents

    @property
    def graph(self) -> nx.Graph[int]:
        """Who ever talks to whom."""
        return self.base.graph

    @property
    def directed(self) -> bool:
        """Whether the base is."""
        return self.base.directed

    @property
    def doubly_stochastic(self) -> bool:
        """Whether the base is, and stays so: only what is missing both ways leaves no skew."""
        return self.base.doubly_stochastic and not self.directed

    @property
    def period(self) -> None:
        """None: it never repeats."""

    @cached_property
    def contraction(self) -> float:
        """The same in the root mean square, estimated over the first 200 periods of the base."""
        turns = self.base.period
        drawn = [self._drawn(time) for time in range(turns * _SAMPLES)]
        return _contraction(self, [drawn[k : k + turns] for k in range(0, len(drawn), turns)])

    @property
    def spectral_gap(self) -> float:
        """1 - contraction."""
        return 1.0 - self.contraction

    def at(self, time: int) -> Topology:
        """The base's topology at that time without the edges that are missing."""
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


def _contraction(network: Network, periods: Sequence[Sequence[Topology]]) -> float:
    """The factor a time: of what shrinks at least, or in the long run if there is no such."""
    if network.num_agents == 1:
        return 0.0
    products = period_products([[topology.pi for topology in period] for period in periods])
    shrinkage = worst_shrinkage if network.doubly_stochastic else long_run_shrinkage
    return float(min(shrinkage(products), 1.0) ** (1 / len(periods[0])))


def _ordered(edge: tuple[int, int]) -> tuple[int, int]:
    return min(edge), max(edge)


def _without(pi: Matrix, missing: list[tuple[int, int]], *, both_ways: bool) -> Matrix:
    """The mixing matrix without some edges, what they carried moved to the diagonal."""
    rest = pi.copy()
    for speaker, listener in missing:
        rest[listener, speaker] = 0.0
        if both_ways:
            rest[speaker, listener] = 0.0
    axis = 0 if keeps_sum(pi) else 1
    rest[np.diag_indices_from(rest)] += pi.sum(axis) - rest.sum(axis)
    return rest


# --- graphs that take turns -----------------------------------------------------------------------


def one_peer_exponential(agents: int) -> list[nx.Graph[int]]:
    """At time t agent i hears i - 2^t only, the power starting over once it is n or more.

    References:
        Ying et al., "Exponential Graph is Provably Efficient for Decentralized Deep Training",
        NeurIPS 2021.
    """
    return [hearing(agents, [offset]) for offset in powers_of_two(agents) or [0]]


def alternating_matchings(agents: int) -> list[nx.Graph[int]]:
    """The edges of the ring in 2 matchings, 3 if n is odd: everyone talks to one at most."""
    ring = [(i, (i + 1) % agents) for i in range(agents if agents > 2 else agents - 1)]
    odd = [ring.pop()] if agents > 2 and agents % 2 else []
    graphs = []
    for matching in filter(None, (ring[::2], ring[1::2], odd)):
        graph: nx.Graph[int] = nx.empty_graph(agents)
        graph.add_edges_from(matching)
        graphs.append(graph)
    return graphs or [nx.empty_graph(agents)]


SEQUENCES: dict[str, Callable[[int], list[nx.Graph[int]]]] = {
    "one-peer-exponential": one_peer_exponential,
    "alternating-matchings": alternating_matchings,
}
