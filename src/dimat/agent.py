"""An agent: a model, its optimizer and its own shard; it trains, calibrates and is evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from dimat.data import Shard, generator
from dimat.errors import TrainingError
from dimat.exchange import Traffic
from dimat.matching.gauge import GaugeId
from dimat.state import State, state_of

# What a stream of random numbers is for: one number each, so that streams never meet.
TRAIN, MATCH, RECALIBRATE = 1, 2, 3


@dataclass
class Agent:
    """One participant. Its randomness depends on (seed, agent, purpose, epoch) and nothing else.

    Args:
        index: Its number.
        model: Its model.
        optimizer: Of the model's parameters.
        shard: Its own images.
        seed: Seed of the run.
        batch_size: Images a training step.
        augment: Whether training images are augmented.
        precision: float32, or bfloat16 by autocast.
        gauge: Whose unit order its model is in; its own if None.
    """

    index: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    shard: Shard
    seed: int
    batch_size: int
    augment: bool = False
    precision: str = "float32"
    gauge: GaugeId | None = None
    steps: int = 0
    epochs: int = 0
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def device(self) -> torch.device:
        """Where its model lives."""
        return next(self.model.parameters()).device

    def state(self) -> State:
        """A copy of its state."""
        return state_of(self.model)

    def load(self, state: State) -> None:
        """Take over a state, in place of its own."""
        self.model.load_state_dict(state)

    def autocast(self) -> AbstractContextManager[None]:
        """The arithmetic of forward passes."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def train(self, steps: int, schedule: torch.optim.lr_scheduler.LRScheduler) -> float:
        """Take ``steps`` local steps; the mean training loss.

        Raises:
            TrainingError: If the loss is not finite.
        """
        self.model.train()
        total = torch.zeros((), device=self.device)
        for inputs, labels in self._batches(steps):
            with self.autocast():
                loss = functional.cross_entropy(self.model(inputs).float(), labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            schedule.step()
            total += loss.detach()
        mean = float(total) / max(steps, 1)
        if steps and not torch.isfinite(total):
            raise TrainingError(f"agent {self.index}: the training loss is not finite ({mean})")
        return mean

    def _batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The next batches, epoch after epoch, going on where the last call stopped."""
        left = steps
        while left > 0:
            per_epoch = self.shard.num_batches(self.batch_size)
            skip = self.steps % per_epoch
            random = generator(self.seed, self.index, TRAIN, self.epochs, device=self.device)
            for k, batch in enumerate(self.shard.epoch(self.batch_size, random, self.augment)):
                if k < skip:
                    continue
                if left == 0:
                    return
                self.steps += 1
                left -= 1
                yield batch
            self.epochs += 1

    def calibration(self, purpose: int, round_number: int, images: int) -> Sequence[Tensor]:
        """Inputs from its own training images, the same for every method of one seed."""
        random = generator(self.seed, self.index, purpose, round_number, device=self.device)
        return self.shard.calibration(images, 250, random)

    def evaluate(
        self, inputs: Tensor, labels: Tensor, batch_size: int = 1000
    ) -> tuple[float, float]:
        """(accuracy, mean cross-entropy) on normalized images; NaN without images."""
        self.model.eval()
        correct, loss = 0, 0.0
        with torch.no_grad(), self.autocast():
            for x, y in zip(
                torch.split(inputs, batch_size), torch.split(labels, batch_size), strict=True
            ):
                logits = self.model(x).float()
                correct += int((logits.argmax(1) == y).sum())
                loss += float(functional.cross_entropy(logits, y, reduction="sum"))
        count = len(labels)
        return (correct / count, loss / count) if count else (float("nan"), float("nan"))
