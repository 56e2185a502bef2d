"""How fast this device is at what one method does: two agents, neighbors of each other, do it."""

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
class Beat:
    """Seconds that an agent takes.

    Args:
        exchange: By which a step is longer, for each neighbor.
        merge: For a merge: once for itself, and once for each neighbor that it is mixed with.
        take_over: To take over what a merge gave it.
        compare: To compare its units with a neighbor's, and to solve for their order.
        own: For what comes to that once, however many neighbors there are.
        look: To be looked at by an observer of all.
    """

    exchange: float = 0.0
    merge: float = 0.0
    take_over: float = 0.0
    compare: float = 0.0
    own: float = 0.0
    look: float = 0.0


def beat_of(setup: Setup, work: Work, pace: Speed) -> Beat:
    """Time two agents of a method, if they exchange.

    Args:
        setup: Of the run; its symmetry is found, if the method matches.
        work: Of the method.
        pace: Of one agent.
    """
    if work.method.exchanges == "never" or work.agents == 1:
        return Beat()
    return (_in_steps if work.together else _in_rounds)(setup, work, pace)


def pair_of(setup: Setup, name: str, images: int) -> Setup:
    """The first two agents of a run, neighbors of each other, for a merge or two.

    Args:
        setup: Of the run.
        name: Of the method.
        images: That they match on.
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


def _in_steps(setup: Setup, work: Work, pace: Speed) -> Beat:
    pair, device = pair_of(setup, work.name, 1), setup.config.device
    agents = [pair.new_agent(i, pretraining=False, together=True) for i in (0, 1)]
    steps = work.method.spell

    def step() -> None:
        for _ in range(steps):
            run_all([work.method.step(agent) for agent in agents], [a.traffic for a in agents])

    spent = each(device, step, 2 * pace.part_s) / (2 * steps)
    names = parameter_names(agents[0].model)
    states = [agent.state() for agent in agents]
    look = each(device, lambda: of_training(pair.topology, states, names), pace.part_s / 2) / 2
    return Beat(exchange=max(spent - pace.step, 0.0), look=look)


@dataclass
class _Spent:
    """Seconds of both agents in all their rounds; ``look`` only of the last."""

    merge: float = 0.0
    match: float = 0.0
    take_over: float = 0.0
    look: float = 0.0


def _in_rounds(setup: Setup, work: Work, pace: Speed) -> Beat:
    shard = work.shards[0][0]
    images = min(setup.config.matching.images, shard)
    few = pace.images(images, 4 * _CAUTION) if work.method.matches else images
    pair = pair_of(setup, work.name, few)
    spent = _merges(pair, work)
    own = Work(pair, work.name, work.shards[:2], work.stage).counts
    once = few * pace.forward if work.method.needs_graph else 0.0
    compared = max(spent.match - own.comparing * once, 0.0) / max(own.compared, 1)
    return Beat(
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
