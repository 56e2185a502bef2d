"""Who comes into whose unit order, worked out by every agent alike from the graph and the ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx

from dimat.methods.gauge import GaugeId


@dataclass(frozen=True)
class Plan:
    """Plan by which the agents of one connected part of the graph come into one unit order.

    Args:
        gauge: The one they are in afterwards.
        parents: For every agent that has to move the neighbor it gets the new order from.
        crossings: Those who are of another gauge than their parent and are matched to it; the
            others move as their parent does.
        alone: Agents that come into the gauge and share their order with no neighbor. Only they
            are refined: another one would leave those that it is in order with, here or, in the
            gauge that stays, out of reach in this round.
    """

    gauge: GaugeId
    parents: Mapping[int, int]
    crossings: frozenset[int]
    alone: frozenset[int]

    def needs(self, agent: int, neighbors: list[int]) -> frozenset[int]:
        """The neighbors that an agent has to be compared with."""
        if agent in self.alone:
            return frozenset(neighbors)
        return frozenset({self.parents[agent]} if agent in self.crossings else ())

    def compares(self, agent: int, neighbors: list[int], graph: nx.Graph[int]) -> list[int]:
        """The neighbors that are compared with it by one end or the other."""
        own = self.needs(agent, neighbors)
        return [j for j in neighbors if j in own or agent in self.needs(j, sorted(graph[j]))]


def make_plan(graph: nx.Graph[int], ids: Mapping[int, GaugeId], number: int) -> Plan | None:
    """Bring one connected part of the graph into one gauge, at the fewest matchings.

    The gauge of lowest rank stays; where nobody shares one yet, that of the part's center. Gauges
    are reached breadth first, each over one edge: agents of one gauge who are connected among
    themselves move by one permutation, so that what was in one order stays so.

    Args:
        graph: Of all agents, in this round.
        ids: For every agent of one connected part its gauge.
        number: The round, >= 1.

    Returns:
        None if all are in one gauge already.
    """
    if len(set(ids.values())) == 1:
        return None
    part = graph.subgraph(ids)
    same = nx.Graph([(i, j) for i, j in part.edges if ids[i] == ids[j]])
    same.add_nodes_from(ids)
    gauge = min(ids.values(), key=lambda own: own.rank)
    roots = sorted(i for i in ids if ids[i] == gauge)
    if gauge.generation == 0:
        center = int(min(nx.center(part)))
        gauge, roots = GaugeId(center, number), [center]
    parents = _spread(part, same, roots)
    crossings = frozenset(i for i, up in parents.items() if ids[i] != ids[up])
    alone = frozenset(i for i in ids if part.degree(i) and not same.degree(i) and ids[i] != gauge)
    return Plan(gauge, parents, crossings, alone)


def _spread(part: nx.Graph[int], same: nx.Graph[int], roots: list[int]) -> dict[int, int]:
    """For every agent that is no root the one that it follows."""
    parents: dict[int, int] = {}
    reached, layer = set(roots), list(roots)
    while layer:
        entered: list[int] = []
        for up in layer:
            for down in sorted(part[up]):
                if down in reached:
                    continue
                parents[down] = up
                inside = list(nx.bfs_edges(same, down, sort_neighbors=sorted))
                parents.update((j, i) for i, j in inside)
                own = [down, *(j for _, j in inside)]
                reached.update(own)
                entered += own
        layer = entered
    return parents
