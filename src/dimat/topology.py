"""Who talks to whom, and how much each listens: graphs and mixing matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from dimat.errors import ConfigError, TopologyError, did_you_mean

Matrix = NDArray[np.float64]
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Topology:
    """A connected graph of agents and its mixing matrix.

    Args:
        name: How the graph was asked for.
        graph: Nodes 0 … n-1; undirected.
        pi: (n, n) mixing matrix; row i is what agent i listens to.
    """

    name: str
    graph: nx.Graph[int]
    pi: Matrix

    @property
    def num_agents(self) -> int:
        """Number of agents."""
        return int(self.graph.number_of_nodes())

    def neighbors(self, agent: int) -> list[int]:
        """The agents it exchanges with, in order."""
        return sorted(self.graph.neighbors(agent))

    @cached_property
    def second_eigenvalue(self) -> float:
        """Modulus of the second largest eigenvalue of the mixing matrix; 0 for one agent."""
        moduli = np.sort(np.abs(np.linalg.eigvals(self.pi)))[::-1]
        return float(moduli[1]) if len(moduli) > 1 else 0.0

    @property
    def spectral_gap(self) -> float:
        """1 minus the second largest modulus: how fast disagreement is mixed away, in [0, 1]."""
        return 1.0 - self.second_eigenvalue

    @cached_property
    def root(self) -> int:
        """The graph's center (the lowest number, if there are several)."""
        return int(min(nx.center(self.graph)))

    def tree(self) -> list[tuple[int, int]]:
        """(parent, child) edges of a breadth-first tree from the root, the same at every agent."""
        edges = nx.bfs_edges(self.graph, self.root, sort_neighbors=sorted)
        return [(int(parent), int(child)) for parent, child in edges]


def build_topology(
    name: str,
    agents: int,
    *,
    mixing: str = "metropolis",
    path: str | None = None,
    shard_sizes: Sequence[int] | None = None,
) -> Topology:
    """A topology by name, checked.

    Args:
        name: One of :data:`TOPOLOGIES`, or ``edges`` with ``path``.
        agents: Number of agents, >= 1.
        mixing: One of :data:`MIXING`.
        path: A file with one edge "i j" a line, for ``edges``.
        shard_sizes: Images per agent, for ``shard-size``.

    Raises:
        ConfigError: For an unknown name or rule.
        TopologyError: For a graph that is not connected or cannot have this many agents, or a
            matrix that breaks its rules.
    """
    if agents < 1:
        raise TopologyError(f"setting 'agents' is {agents}: must be >= 1")
    if name != "edges" and name not in TOPOLOGIES:
        known = [*TOPOLOGIES, "edges"]
        raise ConfigError(
            f"setting 'topology.name' is '{name}': no such topology; {did_you_mean(name, known)}"
        )
    if mixing not in MIXING:
        raise ConfigError(
            f"setting 'topology.mixing' is '{mixing}': no such rule; {did_you_mean(mixing, MIXING)}"
        )
    graph = read_edges(path, agents) if name == "edges" else TOPOLOGIES[name](agents)
    check_connected(graph)
    weights = np.ones(agents) if mixing != "shard-size" else np.asarray(shard_sizes, np.float64)
    if weights.shape != (agents,) or not (weights > 0).all():
        raise TopologyError("mixing 'shard-size' needs the shard size of every agent, > 0")
    pi = MIXING[mixing](graph, weights)
    check_mixing_matrix(pi, graph, weights)
    return Topology(name, graph, pi)


# --- graphs ---------------------------------------------------------------------------------------


def ring(agents: int) -> nx.Graph[int]:
    """Everyone talks to the next and the previous."""
    return _cleaned(nx.cycle_graph(agents))


def full(agents: int) -> nx.Graph[int]:
    """Everyone talks to everyone."""
    return _cleaned(nx.complete_graph(agents))


def star(agents: int) -> nx.Graph[int]:
    """Everyone talks to agent 0."""
    return _cleaned(nx.star_graph(agents - 1))


def torus(agents: int) -> nx.Graph[int]:
    """A grid that wraps around, as square as the number of agents allows."""
    rows = max(r for r in range(1, int(agents**0.5) + 1) if agents % r == 0)
    if rows == 1 and agents > 3:
        raise TopologyError(
            f"a torus of {agents} agents is only a ring: use a number with two factors, or ring"
        )
    grid = nx.grid_2d_graph(rows, agents // rows, periodic=True)
    return _cleaned(nx.convert_node_labels_to_integers(grid, ordering="sorted"))


def exponential(agents: int) -> nx.Graph[int]:
    """Agent i talks to i ± 1, i ± 2, i ± 4, …."""
    offsets = [2**k for k in range(max(agents - 1, 0).bit_length()) if 2**k < agents]
    return _cleaned(nx.circulant_graph(agents, offsets))


def bipartite(agents: int) -> nx.Graph[int]:
    """Two hubs (the last two agents), and everyone else talks to both."""
    if agents < 3:
        raise TopologyError(
            f"topology 'bipartite' has 2 hubs: {agents} agents are too few, use >= 3"
        )
    return nx.Graph(nx.complete_bipartite_graph(agents - 2, 2))


def _cleaned(graph: nx.Graph[int]) -> nx.Graph[int]:
    """Without edges from an agent to itself."""
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return graph


def read_edges(path: str | None, agents: int) -> nx.Graph[int]:
    """A graph from a file with one edge "i j" a line; # begins a comment."""
    if path is None:
        raise ConfigError("setting 'topology.path' is missing: topology 'edges' reads a file")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path}: cannot be read ({error})") from error
    graph: nx.Graph[int] = nx.empty_graph(agents)
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not all(word.isdecimal() for word in words):
            raise TopologyError(
                f"{path}, line {number}: '{line}' is no edge; write two agents: 0 1"
            )
        i, j = map(int, words)
        if i == j or max(i, j) >= agents:
            raise TopologyError(
                f"{path}, line {number}: an edge joins two of the agents 0..{agents - 1}, not "
                f"{i} and {j}"
            )
        graph.add_edge(i, j)
    return graph


def check_connected(graph: nx.Graph[int]) -> None:
    """Refuse a graph in which news cannot reach everyone.

    Raises:
        TopologyError: Naming the parts.
    """
    parts = [sorted(part) for part in nx.connected_components(graph)]
    if len(parts) > 1:
        shown = " and ".join(str(part[:8]) for part in parts[:3])
        raise TopologyError(
            f"the graph is not connected: {len(parts)} parts, such as agents {shown}; add edges"
        )


TOPOLOGIES: dict[str, Callable[[int], nx.Graph[int]]] = {
    "ring": ring,
    "full": full,
    "star": star,
    "torus": torus,
    "exponential": exponential,
    "bipartite": bipartite,
}


# --- mixing matrices ------------------------------------------------------------------------------


def metropolis(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r"""Metropolis-Hastings: :math:`\pi_{ij} = 1 / (1 + \max(d_i, d_j))`, the rest on the diagonal.

    Symmetric and doubly stochastic on any graph.
    """
    pi = np.zeros((len(graph), len(graph)))
    for i, j in graph.edges:
        pi[i, j] = pi[j, i] = 1.0 / (1 + max(graph.degree(i), graph.degree(j)))
    return _completed(pi)


def uniform(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r""":math:`\pi_{ij} = 1 / (1 + d_i)` for itself and every neighbor: for regular graphs only."""
    degrees = sorted({int(degree) for _, degree in graph.degree})
    if len(degrees) > 1:
        raise TopologyError(
            f"mixing 'uniform' is not doubly stochastic where agents have {degrees[0]} to "
            f"{degrees[-1]} neighbors: use metropolis"
        )
    return _completed(_adjacency(graph) / (1.0 + degrees[0]))


def shard_size(graph: nx.Graph[int], weights: Matrix) -> Matrix:
    r"""A Metropolis-Hastings chain that keeps the mean weighted by shard size.

    .. math:: \pi_{ij} = \frac{1}{1 + \max(d_i, d_j)} \min(1, n_j / n_i)

    Rows sum to 1 and :math:`n_i\pi_{ij} = n_j\pi_{ji}`; columns need not sum to 1.
    """
    pi = metropolis(graph, weights)
    np.fill_diagonal(pi, 0.0)
    return _completed(pi * np.minimum(1.0, weights[None, :] / weights[:, None]))


def _adjacency(graph: nx.Graph[int]) -> Matrix:
    return np.asarray(nx.to_numpy_array(graph, range(len(graph))), np.float64)


def _completed(pi: Matrix) -> Matrix:
    np.fill_diagonal(pi, 1.0 - pi.sum(1))
    return pi


MIXING: dict[str, Callable[[nx.Graph[int], Matrix], Matrix]] = {
    "metropolis": metropolis,
    "uniform": uniform,
    "shard-size": shard_size,
}


def check_mixing_matrix(pi: Matrix, graph: nx.Graph[int], weights: Matrix | None = None) -> None:
    """Refuse a mixing matrix that would not keep the (weighted) mean.

    Args:
        pi: The matrix.
        graph: The graph it is to fit.
        weights: Of the mean that is to be kept; all equal if None.

    Raises:
        TopologyError: Naming the row or pair of agents.
    """
    n = graph.number_of_nodes()
    if pi.shape != (n, n) or not np.isfinite(pi).all() or (pi < -TOLERANCE).any():
        raise TopologyError(
            f"a mixing matrix for {n} agents is a finite, nonnegative {n}x{n} matrix, not "
            f"{'x'.join(map(str, pi.shape))} with values from {pi.min():.3g} to {pi.max():.3g}"
        )
    sums = pi.sum(1)
    worst = int(np.argmax(np.abs(sums - 1)))
    if abs(sums[worst] - 1) > TOLERANCE:
        raise TopologyError(f"row {worst} of the mixing matrix sums to {sums[worst]:.6g}, not 1")
    flow = pi * (np.ones(n) if weights is None else weights)[:, None]
    skew = np.abs(flow - flow.T)
    i, j = (int(k) for k in np.unravel_index(np.argmax(skew), skew.shape))
    if skew[i, j] > TOLERANCE * max(1.0, float(np.abs(flow).max())):
        raise TopologyError(
            f"the mixing matrix is not symmetric: agents {i} and {j} weigh each other "
            f"{pi[i, j]:.6g} and {pi[j, i]:.6g}"
        )
    allowed = _adjacency(graph) + np.eye(n)
    stray = np.argwhere((np.abs(pi) > TOLERANCE) & (allowed == 0))
    if len(stray):
        i, j = (int(k) for k in stray[0])
        raise TopologyError(
            f"the mixing matrix has a weight for agents {i} and {j}, who share no edge"
        )
