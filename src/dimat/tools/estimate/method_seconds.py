"""Seconds of the parts of one method on this device, timed with two agents that are neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dimat.data import Partition
from dimat.exchange.in_process import InProcess, run_all
from dimat.experiment.config.config import RecalibrationConfig
from dimat.experiment.evaluation.diagnostics import MergeSnapshot, of_training
from dimat.experiment.evaluation.merge_snapshot import seen, shown
from dimat.experiment.setup import Setup
from dimat.methods import METHODS, RoundContext, RoundResult
from dimat.tools.estimate.calibrate import Speed
from dimat.tools.estimate.timing import clock, each
from dimat.tools.estimate.work import Work
from dimat.topology import build_topology
from dimat.training.round import merge_round
from dimat.training.trainer import parameter_names

_CAUTION = 3.0  # comparing units costs about so many times what the forward passes do


@dataclass(frozen=True)
class MethodSeconds:
    """Seconds that an agent spends on each part of a method.

    Args:
        exchange: Extra seconds of a training step for each neighbor.
        merge: Seconds of a merge: once for itself, and once for each neighbor that is mixed in.
        take_over: Seconds of loading a merge's result and moving the optimizer along.
        compare: Seconds of comparing units with a neighbor's and solving for their order.
        own: Seconds of the agent's own forward passes in a comparison, whatever the neighbors.
        look: Seconds of the diagnostics of one agent.
    """

    exchange: float = 0.0
    merge: float = 0.0
    take_over: float = 0.0
    compare: float = 0.0
    own: float = 0.0
    look: float = 0.0


def method_seconds(setup: Setup, work: Work, speed: Speed) -> MethodSeconds:
    """Time two agents of a method, if they exchange.

    Args:
        setup: Setup of the run; its symmetry is found, if the method matches.
        work: Work of the method.
        speed: Seconds of the parts that all methods have.
    """
    if work.method.exchanges == "never" or work.agents == 1:
        return MethodSeconds()
    return (_in_steps if work.together else _in_rounds)(setup, work, speed)


def pair_of(setup: Setup, name: str, images: int) -> Setup:
    """The first two agents of a run, neighbors of each other, for a merge or two.

    Args:
        setup: Setup of the run.
        name: Registry name of the method.
        images: Number of images that they match on.
    """
    own = setup.config
    config = replace(
        own,
        agents=2,
        rounds=1 if METHODS[name].merges_once else 2,
        matching=replace(own.matching, images=images),
        recalibration=RecalibrationConfig(methods=()),  # that is timed apart
    )
    parts = Partition(setup.parts.pretrain[:2], setup.parts.rounds[:2])
    pair = Setup(config, setup.dataset, parts, build_topology("full", 2))
    # What was found once for the run is not found again.
    vars(pair).update({k: v for k, v in vars(setup).items() if k in ("analysis", "test")})
    return pair


def _in_steps(setup: Setup, work: Work, speed: Speed) -> MethodSeconds:
    pair, device = pair_of(setup, work.name, 1), setup.config.device
    agents = [pair.new_agent(i, pretraining=False, together=True) for i in (0, 1)]
    steps = work.method.period

    def step() -> None:
        for _ in range(steps):
            run_all([work.method.step(agent) for agent in agents], [a.traffic for a in agents])

    spent = each(device, step, 2 * speed.part_s) / (2 * steps)
    names = parameter_names(agents[0].model)
    states = [agent.state() for agent in agents]
    look = each(device, lambda: of_training(pair.topology, states, names), speed.part_s / 2) / 2
    return MethodSeconds(exchange=max(spent - speed.step, 0.0), look=look)


@dataclass
class _Spent:
    """Seconds of both agents in all their rounds; ``look`` only of the last."""

    merge: float = 0.0
    match: float = 0.0
    take_over: float = 0.0
    look: float = 0.0


def _in_rounds(setup: Setup, work: Work, speed: Speed) -> MethodSeconds:
    shard = work.shards[0][0]
    images = min(setup.config.matching.images, shard)
    few = speed.images(images, 4 * _CAUTION) if work.method.matches else images
    pair = pair_of(setup, work.name, few)
    spent = _merges(pair, work)
    own = Work(pair, work.name, work.shards[:2], work.stage).counts
    once = few * speed.forward if work.method.needs_graph else 0.0
    compared = max(spent.match - own.comparing * once, 0.0) / max(own.compared, 1)
    return MethodSeconds(
        merge=max(spent.merge - spent.match, 0.0) / (own.merges + own.mixed),
        take_over=spent.take_over / own.merges,
        compare=compared * (images / few if once else 1.0),
        own=once * images / few,
        look=spent.look / 2,
    )


def _merges(pair: Setup, work: Work) -> _Spent:
    """Let two agents merge, as in the rounds of a run."""
    spent, device = _Spent(), pair.config.device
    agents = [pair.new_agent(i, pretraining=False, method=work.name) for i in (0, 1)]
    for agent in agents:
        agent.update(agent.gradient())  # an optimizer that has something to remember
    marks = [0.0, 0.0, 0.0]  # a round's merge begins, ends, and was looked at

    def observe(contexts: Sequence[RoundContext], results: Sequence[RoundResult]) -> None:
        marks[1] = clock(device)
        _look(pair, work, contexts, results)
        marks[2] = clock(device)
        spent.match += sum(own.report.match_s for own in results)

    precision, transport = pair.config.exchange.precision, InProcess((0, 1))
    for number in range(1, pair.config.rounds + 1):
        marks[0] = clock(device)
        merge_round(agents, work.method, transport, number, precision=precision, observe=observe)
        spent.merge += marks[1] - marks[0]
        spent.look = marks[2] - marks[1]
        spent.take_over += clock(device) - marks[2]
    return spent


def _look(
    pair: Setup, work: Work, members: Sequence[RoundContext], merged: Sequence[RoundResult]
) -> object:
    symmetry = pair.analysis.symmetry if work.method.matches else None
    both = [
        seen(shown(me, own), symmetry, pair.config.device)
        for me, own in zip(members, merged, strict=True)
    ]
    states, results = [state for state, _ in both], [own for _, own in both]
    return MergeSnapshot(
        pair.topology.at(0), states, results, members[0].parameters, symmetry
    ).describe()
