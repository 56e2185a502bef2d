"""Who will be compared with how many neighbors in which round: gauges without any network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx

from dimat.experiment.running.rounds import method_settings
from dimat.experiment.setup import Setup
from dimat.methods.gauge import GaugeId
from dimat.methods.ordering.plan import Plan, make_plan
from dimat.methods.ordering.spread import age
from dimat.topology import Topology


@dataclass(frozen=True)
class Meeting:
    """One round of a method that matches.

    Args:
        topology: Of the round.
        compared: For every agent, the number of neighbors it compares its units with.
        mixed: For every agent, the number of neighbors it is mixed with.
        ids: For every agent whose unit order it says it is in, where it says that.
        plans: For every agent how its part of the graph comes into one order; None: it is.
    """

    topology: Topology
    compared: list[int]
    mixed: list[int]
    ids: dict[int, GaugeId] | None = None
    plans: dict[int, Plan | None] | None = None

    @property
    def matches(self) -> bool:
        """Whether any agent is matched."""
        return any(self.compared)


def meetings(setup: Setup, name: str) -> Iterator[Meeting]:
    """Every round of a method that exchanges once a round with its neighbors, in order.

    Agents that drift are not foreseen.
    """
    settings, config = method_settings(setup.config), setup.config
    if name == "final-merge":
        last = max(config.rounds - 1, 0)
        yield from (_none(setup.topology.at(t)) for t in range(last))
        one = (setup.topology.at(t) for t in range(last, config.rounds))
        yield from _KINDS[settings.once or settings.gauge](one, setup)
        return
    times = (setup.topology.at(t) for t in range(config.rounds))
    if name in ("wa", "wm"):
        yield from _everybody(times, compared=name == "wm")
    elif name == "dimat":
        yield from _KINDS[settings.gauge](times, setup)


def _none(topology: Topology) -> Meeting:
    nobody = [0] * topology.num_agents
    return Meeting(topology, nobody, nobody)


def _degrees(topology: Topology) -> list[int]:
    return [len(topology.neighbors(i)) for i in range(topology.num_agents)]


def _everybody(times: Iterator[Topology], *, compared: bool) -> Iterator[Meeting]:
    for topology in times:
        degrees = _degrees(topology)
        yield Meeting(topology, degrees if compared else [0] * len(degrees), degrees)


def _spread(times: Iterator[Topology], setup: Setup) -> Iterator[Meeting]:
    """As :func:`dimat.methods.ordering.spread.spread` decides."""
    agents = range(setup.config.agents)
    ids: dict[int, GaugeId] = {}
    for number, topology in enumerate(times, start=1):
        own = {i: ids.get(i, GaugeId(i, number)) for i in agents}
        heard = {i: topology.neighbors(i) for i in agents}
        ids = {i: min([own[i], *(own[j] for j in heard[i])], key=age) for i in agents}
        mixed = [sum(own[j] == ids[i] for j in heard[i]) for i in agents]
        compared = [mixed[i] if ids[i] != own[i] else 0 for i in agents]
        yield Meeting(topology, compared, mixed, own)


def _tree(times: Iterator[Topology], setup: Setup) -> Iterator[Meeting]:
    """As :func:`dimat.methods.ordering.tree.one_gauge` does."""
    matching, agents = setup.config.matching, range(setup.config.agents)
    ids = {i: GaugeId(i) for i in agents}
    for number, topology in enumerate(times, start=1):
        if matching.every and (number - 1) % matching.every == 0:
            ids = {i: GaugeId(i) for i in agents}
        own = ids
        plans: dict[int, Plan | None] = dict.fromkeys(agents)
        for part in nx.connected_components(topology.graph):
            plan = make_plan(topology.graph, {i: own[i] for i in sorted(part)}, number)
            plans.update(dict.fromkeys(part, plan))
            ids = ids if plan is None else {**ids, **dict.fromkeys(part, plan.gauge)}
        compared = [_needed(plans[i], i, topology, matching.statistics) for i in agents]
        yield Meeting(topology, compared, _degrees(topology), own, plans)


def _needed(plan: Plan | None, agent: int, topology: Topology, statistics: str) -> int:
    if plan is None:
        return 0
    neighbors = topology.neighbors(agent)
    if statistics == "pooled":
        return len(plan.compares(agent, neighbors, topology.graph))
    return len(plan.needs(agent, neighbors))


def _pairwise(times: Iterator[Topology], setup: Setup) -> Iterator[Meeting]:
    return _everybody(times, compared=True)


_KINDS = {"spread": _spread, "tree": _tree, "pairwise": _pairwise}
