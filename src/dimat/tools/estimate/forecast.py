"""Everything that a run will cost: the parts put together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from dimat.experiment.config.config import RunConfig
from dimat.experiment.progress import Progress, Silent
from dimat.experiment.running.process import borrowed
from dimat.experiment.running.vectorized import trains_at_once, tried
from dimat.experiment.setup import Setup
from dimat.methods import METHODS
from dimat.tools.estimate.calibrate import Speed, speed_of
from dimat.tools.estimate.dry_run import Stage
from dimat.tools.estimate.memory import Memory, memory_of_run
from dimat.tools.estimate.method_seconds import MethodSeconds, method_seconds
from dimat.tools.estimate.model_cost import ModelFacts
from dimat.tools.estimate.work import Work, pretraining_steps, shards_of

_CALIBRATION_S = 15.0


@dataclass(frozen=True)
class Cost:
    """Costs of one method, or of pre-training, for all agents together.

    Args:
        flops: By what they are for.
        sent_bytes: Of each agent.
        wall_s: Expected seconds by what they are for; empty if no device was timed.
    """

    flops: Mapping[str, float]
    sent_bytes: tuple[float, ...]
    wall_s: Mapping[str, float]


@dataclass(frozen=True)
class Forecast:
    """Costs of a run in one process.

    Args:
        config: Its settings.
        facts: Of its network.
        costs: Of pre-training, then of every method in turn, by name.
        memory: Of all of it.
        start_s: Seconds to read and deal out the images, and to find the network's symmetry; None
            if no device was timed.
        calibrated_s: Seconds that timing the device took.
    """

    config: RunConfig
    facts: ModelFacts
    costs: Mapping[str, Cost]
    memory: Memory
    start_s: float | None
    calibrated_s: float

    @property
    def flops(self) -> float:
        """The FLOP of all methods."""
        return sum(sum(own.flops.values()) for own in self.costs.values())

    @property
    def wall_s(self) -> float | None:
        """The seconds of all methods, one after another; None if no device was timed."""
        if self.start_s is None:
            return None
        return self.start_s + sum(sum(own.wall_s.values()) for own in self.costs.values())


def forecast(
    setup: Setup, read_s: float, progress: Progress | None = None, *, calibrate: bool = True
) -> Forecast:
    """The costs of a run.

    Args:
        setup: Of the run.
        read_s: Seconds that making it took.
        progress: Told how it goes.
        calibrate: Whether to time this device; about 15 s.

    Raises:
        TrainingError: If a method fails in its dry run.
    """
    config = setup.config
    names = [config.method, *(name for name in config.controls if name != config.method)]
    began = time.perf_counter()
    if calibrate:
        with borrowed(config.threads, config.device):
            setup = tried(setup)
    stage = Stage(setup)
    works = {name: _work(setup, name, stage) for name in names}
    with borrowed(config.threads, config.device):
        # first: a run imports what this does, too
        timed = _Timed(setup, works, progress or Silent()) if calibrate else None
        facts, ended = stage.facts, time.perf_counter()
        costs = _pretraining(setup, works, facts, timed)
        for name, work in works.items():
            spent, sent = timed.method(work) if timed else {}, work.dry_run
            costs[name] = Cost(work.flops(), tuple(sent.sent_bytes(config.agents)), spent)
    memory = memory_of_run(setup, facts, names)
    start_s = read_s + timed.analysis_s if timed else None
    return Forecast(config, facts, costs, memory, start_s, ended - began)


def _work(setup: Setup, name: str, stage: Stage) -> Work:
    own = setup.pooled() if METHODS[name].scope == "pooled" else setup
    return Work(own, name, shards_of(own), stage)


def _pretraining(
    setup: Setup, works: Mapping[str, Work], facts: ModelFacts, timed: _Timed | None
) -> dict[str, Cost]:
    """Once for all methods, and once more for the one agent that has all images."""
    pooled = [name for name, work in works.items() if work.method.scope == "pooled"]
    setups = {"pre-training": setup} if len(pooled) < len(works) else {}
    for name in pooled[:1]:
        setups[f"pre-training, {name}"] = works[name].setup
    costs = {}
    for name, own in setups.items():
        steps = sum(pretraining_steps(own))
        flops = steps * own.config.batch_size * facts.training_flops
        silent = (0.0,) * own.config.agents
        costs[name] = Cost({"training": flops}, silent, timed.pretraining(own) if timed else {})
    return costs


class _Timed:
    """A device that was timed."""

    def __init__(self, setup: Setup, works: Mapping[str, Work], progress: Progress) -> None:
        part_s = _CALIBRATION_S / (8 + 3 * len(works))
        progress.stage("timing this device", 1 + len(works))
        start = time.perf_counter()
        if any(work.method.needs_analysis for work in works.values()):
            _ = setup.analysis
        self.analysis_s = time.perf_counter() - start
        self.speed: Speed = speed_of(setup, part_s)
        progress.advance()
        self.method_seconds: dict[str, MethodSeconds] = {}
        for name, work in works.items():
            self.method_seconds[name] = method_seconds(setup, work, self.speed)
            progress.advance()

    def pretraining(self, setup: Setup) -> dict[str, float]:
        """Seconds of pre-training."""
        own = setup.config
        step = self.speed.stacked if trains_at_once(setup) else self.speed.step
        return {
            "training": sum(pretraining_steps(setup)) * step,
            "checkpoints": own.agents
            * (own.pretrain_epochs * self.speed.snapshot + self.speed.keep),
        }

    def method(self, work: Work) -> dict[str, float]:
        """Seconds of a method, by what they are for."""
        own, method, speed = work.counts, self.method_seconds[work.name], self.speed
        neighbors = 1.0 if work.method.in_pairs else work.neighbors
        step = speed.stacked if trains_at_once(work.setup, work.method) else speed.step
        return {
            "training": own.steps * step,
            "exchange and merging": own.steps * method.exchange * neighbors
            + (own.merges + own.mixed) * method.merge
            + own.merges * method.take_over,
            "matching": own.compared * method.compare + own.comparing * method.own,
            "recalibration": own.recalibrated * speed.recalibrate,
            "evaluation": own.evaluated * speed.evaluate,
            "diagnostics": own.looked_at * method.look,
            "checkpoints": own.kept * (speed.keep + speed.snapshot),
        }
