"""Who will be compared with how many neighbors in which round: gauges without any network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import networkx as nx

from dimat.methods.cost import Meeting, degrees
from dimat.methods.gauge import GaugeId
from dimat.methods.ordering.plan import Plan, make_plan
from dimat.methods.ordering.spread import seniority
from dimat.topology import Topology


def spreading(topologies: Iterable[Topology]) -> Iterator[Meeting]:
    """Rounds as :func:`dimat.methods.ordering.spread.spread` decides."""
    ids: dict[int, GaugeId] = {}
    for number, topology in enumerate(topologies, start=1):
        agents = range(topology.num_agents)
        own = {i: ids.get(i, GaugeId(i, number)) for i in agents}
        heard = {i: topology.neighbors(i) for i in agents}
        ids = {i: min([own[i], *(own[j] for j in heard[i])], key=seniority) for i in agents}
        mixed = [sum(own[j] == ids[i] for j in heard[i]) for i in agents]
        compared = [mixed[i] if ids[i] != own[i] else 0 for i in agents]
        yield Meeting(topology, compared, mixed, own)


def planned(topologies: Iterable[Topology], *, every: int, pooled: bool) -> Iterator[Meeting]:
    """Rounds as :func:`dimat.methods.ordering.tree.tree` has them; without agents that drift.

    Args:
        topologies: Of the rounds.
        every: Rounds between matchings of all agents; 0: only those of different gauges match.
        pooled: Whether both ends of an edge compare.
    """
    ids: dict[int, GaugeId] = {}
    for number, topology in enumerate(topologies, start=1):
        agents = range(topology.num_agents)
        if not ids or (every and (number - 1) % every == 0):
            ids = {i: GaugeId(i) for i in agents}
        own = ids
        plans: dict[int, Plan | None] = dict.fromkeys(agents)
        for part in nx.connected_components(topology.graph):
            plan = make_plan(topology.graph, {i: own[i] for i in sorted(part)}, number)
            plans.update(dict.fromkeys(part, plan))
            ids = ids if plan is None else {**ids, **dict.fromkeys(part, plan.gauge)}
        compared = [_needed(plans[i], i, topology, pooled=pooled) for i in agents]
        yield Meeting(topology, compared, degrees(topology), own, plans)


def _needed(plan: Plan | None, agent: int, topology: Topology, *, pooled: bool) -> int:
    if plan is None:
        return 0
    neighbors = topology.neighbors(agent)
    if pooled:
        return len(plan.compares(agent, neighbors, topology.graph))
    return len(plan.needs(agent, neighbors))
