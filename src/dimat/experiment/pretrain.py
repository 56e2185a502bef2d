"""Pre-training: every agent alone, from its own init, on its own images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dimat.errors import TrainingError
from dimat.experiment.checkpoint import Checkpoint, Store
from dimat.experiment.display import Observer
from dimat.experiment.locks import alone
from dimat.experiment.setup import Setup
from dimat.experiment.snapshot import Snapshot

_BETWEEN_S = 20.0  # a killed pre-training loses no more than about this


@dataclass(frozen=True)
class Pretrained:
    """An agent after pre-training (or in it), from where every method sets out.

    Args:
        snapshot: The agent.
        train_loss: Mean training loss of its last epoch; NaN if there was none.
    """

    snapshot: Snapshot
    train_loss: float = float("nan")


@dataclass
class Pretraining:
    """Pre-trains all agents, or takes them from where an earlier run left them.

    Args:
        setup: What to start from.
        observer: Told how it goes.
        store: Where it is kept.
    """

    setup: Setup
    observer: Observer
    store: Store
    done: list[Pretrained] = field(default_factory=list)

    def run(self) -> Sequence[Pretrained]:
        """All agents, pre-trained.

        Raises:
            TrainingError: If a loss is not finite.
        """
        config = self.setup.config
        self.observer.stage("pre-training", config.agents * max(config.pretrain_epochs, 1))
        with alone(self.store.path):
            self._take_up()
            self._written = time.monotonic()
            for index in range(config.agents):
                self._one(index)
        return self.done

    def _one(self, index: int) -> None:
        agent = self.setup.new_agent(index, pretraining=True)
        if index < len(self.done):
            self.done[index].snapshot.restore(agent)
        else:
            self.done.append(Pretrained(Snapshot.of(agent)))
        epochs = self.setup.config.pretrain_epochs
        self.observer.advance(min(agent.epochs, epochs))
        while agent.epochs < epochs:
            start = time.perf_counter()
            for _ in range(agent.shard.num_batches(agent.batch_size)):
                agent.update(agent.gradient())
            agent.traffic.busy_s += time.perf_counter() - start
            try:
                self.done[index] = Pretrained(Snapshot.of(agent), agent.loss())
            except TrainingError as error:
                raise TrainingError(f"round 0 (pre-training), {error}") from error
            self.observer.advance()
            self._keep(last=index == self.setup.config.agents - 1 and agent.epochs == epochs)

    def _keep(self, *, last: bool) -> None:
        if not last and time.monotonic() - self._written < _BETWEEN_S:
            return
        tensors: dict[str, Tensor] = {}
        agents = [
            {"snapshot": own.snapshot.pack(str(i), tensors), "train_loss": own.train_loss}
            for i, own in enumerate(self.done)
        ]
        epochs = sum(int(own.snapshot.counters["epochs"]) for own in self.done)
        self.store.write(Checkpoint(epochs, {"agents": agents}, tensors))
        self._written = time.monotonic()

    def _take_up(self) -> None:
        found = self.store.latest(self.observer.note)
        if found:
            self.done = [
                Pretrained(Snapshot.unpack(own["snapshot"], found.tensors), own["train_loss"])
                for own in found.meta["agents"]
            ]
