"""An agent: a model, its optimizer and its own shard; it trains, calibrates and is evaluated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from dimat.data import Shard, generator
from dimat.errors import StructureError, TrainingError
from dimat.exchange import Traffic
from dimat.merging import permute_optimizer, recalibrate, reset_optimizer
from dimat.merging.optimizer import load_memory, memory_of
from dimat.methods import RoundContext, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.state import State, check_finite, clone, put_into, state_of, tensors_of
from dimat.symmetry import Analysis
from dimat.topology import Network, Topology

# What a stream of random numbers is for: one number each, so that streams never meet.
TRAIN, MATCH, RECALIBRATE, NOISE = 1, 2, 3, 4
_CALIBRATED = 250  # images of a forward pass without training, about


@dataclass(frozen=True)
class MergeSettings:
    """What a run says of the merges of an agent.

    Args:
        method: Name of the method, for messages.
        topology: The graph and the mixing matrix of every round.
        analysis: The model's symmetry; asked for where units move.
        rounds: The last round.
        matching_images: How many of its own images units are matched on.
        on_merge: What becomes of the optimizer's memory: kept (it moves with the units), mixed, or
            reset.
        recalibration_images: How many of its own images BatchNorm is recalibrated on; 0: it is not.
    """

    method: str
    topology: Network
    analysis: Callable[[], Analysis]
    rounds: int = 1
    matching_images: int = 1000
    on_merge: Literal["keep", "mix", "reset"] = "keep"
    recalibration_images: int = 0


@dataclass
class LocalTrainer:
    """One participant. Its randomness depends on (seed, agent, purpose, epoch) and nothing else.

    Args:
        index: Its number.
        model: Its model.
        optimizer: Of the model's parameters.
        schedule: Of the optimizer's learning rate, a step at a time.
        shard: Its own images.
        topology: Whom it talks to in this step, if it exchanges while it trains.
        seed: Seed of the run.
        batch_size: Images a training step.
        merging: What the run says of its merges.
        augment: Whether training images are augmented.
        precision: float32, or bfloat16 by autocast.
        gauge: Whose unit order its model is in; its own if None.
        steps: Training steps taken on this shard.
        epochs: Passes over a shard that were begun and are over, pre-training included.
        kept: What its method keeps, by name.
        traffic: Bytes sent and received.

    Attributes:
        parameters: The model's, by name; what is tied once.
    """

    index: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    shard: Shard
    topology: Topology
    seed: int
    batch_size: int
    merging: MergeSettings
    augment: bool = False
    precision: str = "float32"
    gauge: GaugeId | None = None
    steps: int = 0
    epochs: int = 0
    kept: dict[str, State] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    parameters: dict[str, nn.Parameter] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Looked up once: a walk over all modules costs as much as a small model's step.
        self.parameters = dict(self.model.named_parameters())
        self._stream = self._batches()
        self._batch: tuple[Tensor, Tensor] | None = None
        self._losses: list[Tensor] = []

    @property
    def device(self) -> torch.device:
        """Where its model lives."""
        return next(iter(self.parameters.values())).device

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state(self) -> State:
        """A copy of its state."""
        return state_of(self.model)

    def load(self, state: State) -> None:
        """Take over a state, in place of its own."""
        put_into(self.model, state)

    def autocast(self) -> AbstractContextManager[None]:
        """The arithmetic of forward passes."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images and labels of the next training step; that step counts as taken."""
        self._batch = next(self._stream)
        return self._batch

    def gradient(self) -> State:
        """Gradient of the loss on the next batch, by parameter; running statistics follow."""
        inputs, labels = self.batch()
        self.model.train()
        self._draw_noise()
        with self.autocast():
            loss = functional.cross_entropy(self.model(inputs).float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self._losses.append(loss.detach())
        gradient = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        self._drop_gradient()
        return gradient

    def _drop_gradient(self) -> None:
        """No gradient is kept while other agents have their turn."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def gradient_at(self, state: Mapping[str, Tensor]) -> State:
        """Gradient on the batch of the last :meth:`gradient` at another state, by parameter."""
        assert self._batch is not None, "gradient() draws the batch"
        inputs, labels = self._batch
        names = [name for name, p in self.parameters.items() if p.requires_grad]
        buffers = [name for name, _ in self.model.named_buffers() if name in state]
        frozen = [name for name, p in self.parameters.items() if not p.requires_grad]
        # A forward pass writes running statistics; tied weights are given once.
        there = clone({name: state[name] for name in (*names, *frozen, *buffers)})
        wanted = [there[name].requires_grad_() for name in names]
        self.model.train()
        self._draw_noise()
        with self.autocast():
            logits = functional_call(self.model, there, (inputs,))
            loss = functional.cross_entropy(logits.float(), labels)
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        return {name: g for name, g in zip(names, found, strict=True) if g is not None}

    def _draw_noise(self) -> None:
        """Dropout and the like draw from a stream of this agent and step."""
        noise = generator(self.seed, self.index, NOISE, self.epochs, self.steps).initial_seed()
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(noise)  # torch.manual_seed: 80 us, for all devices
        else:
            torch.manual_seed(noise)

    def update(self, gradient: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """One optimizer step along a gradient, at ``scale`` times the learning rate."""
        for name, parameter in self.parameters.items():
            parameter.grad = gradient.get(name)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * scale
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._drop_gradient()
        self.schedule.step()

    def scale_momentum(self, factor: float) -> None:
        """Multiply the momenta of momentum SGD by a factor."""
        for memory in self.optimizer.state.values():
            if memory.get("momentum_buffer") is not None:
                memory["momentum_buffer"].mul_(factor)

    def schedule_at(self, place: int) -> None:
        """Put the learning rate where it is after so many steps."""
        schedule = self.schedule
        schedule.last_epoch = place
        rates = [b * f(place) for b, f in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates
        schedule._step_count = place + 1

    def note_losses(self, losses: Tensor) -> None:
        """Count (steps,) losses of steps that were taken elsewhere."""
        self._losses.extend(losses)

    def loss(self) -> float:
        """Mean training loss since it was last asked for; NaN if there was no step.

        Raises:
            TrainingError: If it is not finite.
        """
        losses, self._losses = self._losses, []
        mean = float(torch.stack(losses).mean()) if losses else float("nan")
        if losses and not math.isfinite(mean):
            raise TrainingError(f"agent {self.index}: the training loss is not finite ({mean})")
        return mean

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches, epoch after epoch, from where the counters say; they count along."""
        while True:
            last = self.shard.num_batches(self.batch_size) - 1
            skip = self.steps % (last + 1)
            random = generator(self.seed, self.index, TRAIN, self.epochs, device=self.device)
            for k, batch in enumerate(self.shard.epoch(self.batch_size, random, self.augment)):
                if k < skip:
                    continue
                self.steps += 1
                self.epochs += k == last
                yield batch

    def calibration(self, purpose: int, round_number: int, images: int) -> Sequence[Tensor]:
        """Inputs from its own training images, the same for every method of one seed."""
        random = generator(self.seed, self.index, purpose, round_number, device=self.device)
        return self.shard.calibration(images, _CALIBRATED, random)

    # --- the merge of a round (round.py) ------------------------------------------------------

    def context(self, number: int) -> RoundContext:
        """The state, graph, images and memory that it brings to the merge of a round.

        Raises:
            TrainingError: If its state is not finite.
        """
        own = self.merging
        try:
            check_finite(tensors_of(self.model.state_dict()), f"agent {self.index}")
        except StructureError as error:
            raise TrainingError(
                f"{own.method}, round {number}, before the merge: {error}; training diverges"
            ) from error
        return RoundContext(
            agent=self.index,
            round=number,
            state=self.state(),
            topology=own.topology.at(number - 1),
            parameters=parameter_names(self.model),
            analysis=own.analysis,
            batches=lambda: self.calibration(MATCH, number, own.matching_images),
            gauge=self.gauge,
            memory=memory_of(self.optimizer, self.model) if own.on_merge == "mix" else {},
            rounds=own.rounds,
            images=len(self.shard),
            kept=self.kept,
        )

    def take_over(self, me: RoundContext, result: RoundResult) -> float:
        """Load the merged state, move the optimizer along, recalibrate: seconds that it took."""
        start = time.perf_counter()
        self.load(result.state)
        self.gauge = result.gauge or self.gauge
        self.kept = {name: dict(own) for name, own in result.kept.items()}
        self._carry_optimizer(result)
        self.traffic.busy_s += time.perf_counter() - start
        if result.disagreement is not None and not result.calibrated:
            self.recalibrate(me.round)
        return time.perf_counter() - start

    def _carry_optimizer(self, result: RoundResult) -> None:
        """The optimizer's memory mixed, moved as the agent's units are, or forgotten."""
        if result.disagreement is not None and self.merging.on_merge == "reset":
            reset_optimizer(self.optimizer)
        elif result.memory is not None:
            load_memory(self.optimizer, self.model, result.memory)
        elif result.permutation is not None:
            symmetry, p = self.merging.analysis().symmetry, result.permutation
            permute_optimizer(self.optimizer, self.model, lambda e: symmetry.apply(p, e))

    def recalibrate(self, number: int) -> float:
        """BatchNorm statistics of an averaged model, from the agent's own images, if asked for.

        A step of the round, whether that is measured or not: the next merge matches units by what
        these statistics make of them, and mixes them.

        Returns:
            Seconds that it took; the agent was busy for as long.
        """
        start = time.perf_counter()
        if self.merging.recalibration_images:
            images = self.calibration(RECALIBRATE, number, self.merging.recalibration_images)
            with self.autocast():  # as it is evaluated
                recalibrate(self.model, images)
        spent = time.perf_counter() - start
        self.traffic.busy_s += spent
        return spent

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


def parameter_names(model: nn.Module) -> Sequence[str]:
    """State keys that are parameters."""
    return [name for name, _ in model.named_parameters()]
