"""Seconds of the parts that all methods have, timed on this device a few times each."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dimat.data import Rows
from dimat.errors import writing
from dimat.exchange.tree import pack
from dimat.experiment.evaluation.evaluate import evaluated
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.running.vectorized import stack_size, train_at_once, trains_at_once
from dimat.experiment.setup import Setup
from dimat.files import flush
from dimat.merging import recalibrate
from dimat.tools.estimate.timing import each
from dimat.training.snapshot import Snapshot
from dimat.training.trainer import RECALIBRATE, LocalTrainer

_STACKED, _STEPS = 32, 10  # agents that train at once, and their steps in one go, at most
_KEPT = 4  # agents in a checkpoint: files are written and flushed once for all


@dataclass(frozen=True)
class Speed:
    """Seconds that an agent takes.

    Args:
        step: For a training step of its own.
        stacked: For the same where several train at once.
        evaluate: For an evaluation, validation included.
        forward: For the forward pass of one image.
        recalibrate: For new running statistics.
        snapshot: For a copy of all that it is.
        keep: To be written into a checkpoint.
        part_s: Seconds that each of these was timed for, about.
    """

    step: float
    stacked: float
    evaluate: float
    forward: float
    recalibrate: float
    snapshot: float
    keep: float
    part_s: float

    def images(self, most: int, runs: float = 1.0) -> int:
        """The images that the time for a part is enough for, at least 8 if there are.

        Args:
            most: As many as there are at most.
            runs: Forward passes of each.
        """
        return _affordable(most, runs * self.forward, self.part_s)


def speed_of(setup: Setup, part_s: float) -> Speed:
    """Time one agent, on its own images.

    Args:
        setup: Of the run.
        part_s: Seconds for each part, and three times as many for training.
    """
    device, agent = setup.config.device, setup.new_agent(0, pretraining=False)
    agent.begin_training()
    x, y = setup.test
    forward = each(device, lambda: agent.evaluate(x[:8], y[:8]), part_s / 4, most=20) / len(y[:8])
    step, stacked = _training(setup, agent, forward, part_s)
    forward, evaluated = _evaluation(setup, agent, forward, part_s)
    return Speed(
        step,
        stacked,
        evaluated,
        forward,
        _recalibration(setup, agent, forward, part_s),
        each(device, lambda: Snapshot.of(agent), part_s / 4),
        _keeping(agent, part_s / 2),
        part_s,
    )


def _training(
    setup: Setup, agent: LocalTrainer, forward: float, part_s: float
) -> tuple[float, float]:
    """Seconds of a step: alone, and where several agents train at once.

    If one is long it is of a smaller batch, from which the whole is foreseen.
    """
    whole = agent.batch_size
    few = _affordable(whole, 4 * forward, 2 * part_s)
    agent.batch_size = whole if few > whole / 2 else few

    def step() -> None:
        agent.update(agent.gradient())

    spent = each(setup.config.device, step, 3 * part_s)
    agent.loss()  # forgets the losses, and complains of them if they are not finite
    larger = whole / agent.batch_size
    if not trains_at_once(setup):
        return spent * larger, spent * larger
    return spent * larger, _stacked(setup, agent.batch_size, spent, part_s) * larger


def _stacked(setup: Setup, batch_size: int, alone_s: float, part_s: float) -> float:
    """Seconds of a step of one of several agents at once: as many as there is time for, or 2."""
    affordable = max(2, int(part_s / alone_s))
    size = min(stack_size(setup), setup.config.agents, _STACKED, affordable)
    agents = [setup.new_agent(i, pretraining=False) for i in range(size)]
    for agent in agents:
        agent.begin_training()
    for agent in agents:
        agent.batch_size = batch_size
    steps = max(1, min(_STEPS, affordable // size))  # a stack is made once for all of them

    def train() -> None:
        train_at_once(agents, steps, setup.config.optimizer, exact=setup.exact_stack > 0)

    spent = each(setup.config.device, train, 2 * part_s) / steps / size
    for agent in agents:
        agent.loss()
    return spent


def _evaluation(
    setup: Setup, agent: LocalTrainer, forward: float, part_s: float
) -> tuple[float, float]:
    """Seconds for an image in an evaluation, and of the whole of it."""
    device, (x, y) = setup.config.device, setup.test
    images = len(y) + len(agent.shard.validation()[1])
    few = _affordable(images, forward, part_s)
    if few == images:
        whole = each(device, lambda: evaluated(setup, agent, 0, "trained", {}), part_s)
        return whole / images, whole
    one = each(device, lambda: agent.evaluate(*_first(few, x, y)), part_s) / min(few, len(y))
    return one, one * images


def _first(count: int, x: Rows, y: Rows) -> tuple[Rows, Rows]:
    return x[:count], y[:count]


def _recalibration(setup: Setup, agent: LocalTrainer, forward: float, part_s: float) -> float:
    own = min(setup.config.recalibration.images, len(agent.shard))
    few = _affordable(own, forward, part_s)
    batches = agent.calibration(RECALIBRATE, 1, few)
    with agent.autocast():
        spent = each(setup.config.device, lambda: recalibrate(agent.model, batches), part_s)
    return spent * own / few


def _keeping(agent: LocalTrainer, part_s: float) -> float:
    tensors: dict[str, Tensor] = {}
    tree = Snapshot.of(agent).tree()
    agents = [pack(tree, str(i), tensors) for i in range(_KEPT)]
    with tempfile.TemporaryDirectory() as folder:
        store, numbers = CheckpointFolder(Path(folder)), itertools.count()
        lines = [Path(folder, name) for name in ("metrics.jsonl", "diagnostics.jsonl")]

        def keep() -> None:
            for file in lines:  # which are to be on disk before it
                with writing(file):
                    file.write_text("{}\n")
                    flush(file)
            store.write(Checkpoint(next(numbers), {"agents": agents}, tensors))

        return each("cpu", keep, part_s) / _KEPT


def _affordable(most: int, each_s: float, part_s: float) -> int:
    """So many images as the seconds are enough for, at least 8, at most all."""
    return min(most, max(8, int(part_s / max(each_s, 1e-9))))
