"""Local training: an agent's model, optimizer and shard, its steps, merges and evaluation."""

from __future__ import annotations

import functools
import math
import operator
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dimat.compat import note_steps
from dimat.data import Rows, Shard, generator, in_batches
from dimat.errors import StructureError, TrainingError
from dimat.exchange import Traffic
from dimat.losses import LocalLoss, not_true_distillation
from dimat.merging import calibrated_norms, permute_optimizer, recalibrate, reset_optimizer
from dimat.merging.optimizer import load_memory, memory_of
from dimat.methods import RoundContext, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.state import State, check_finite, clone, put_into, state_of, tensors_of
from dimat.symmetry import Analysis
from dimat.tasks import CLASSIFICATION, Task
from dimat.topology import Network, Topology
from dimat.training.average import WeightAverage

# Purposes of random streams: a number each, so that no two streams are the same.
TRAIN, MATCH, RECALIBRATE, NOISE = 1, 2, 3, 4
_CALIBRATED = 250  # images of a calibration batch, about


@dataclass(frozen=True)
class MergeSettings:
    """The settings of a run that an agent's merges depend on.

    Args:
        method: Registry name of the method, for messages.
        topology: The graph and the mixing matrix of every round.
        analysis: Gives the model's symmetry; called only where units move.
        rounds: Number of the last round.
        matching_images: Images of the agent's shard that units are matched on, at most.
        on_merge: Treatment of the optimizer's memory: keep (it moves with the units), mix, or
            reset.
        recalibration_images: Images of the agent's shard that BatchNorm statistics are recomputed
            on, at most; 0 leaves the statistics as they are.
        exchanged: State keys of what agents exchange; None: all.
    """

    method: str
    topology: Network
    analysis: Callable[[], Analysis]
    rounds: int = 1
    matching_images: int = 1000
    on_merge: Literal["keep", "mix", "reset"] = "keep"
    recalibration_images: int = 0
    exchanged: Collection[str] | None = None


@dataclass
class LocalTrainer:
    """An agent of a run, with its local training and its merges.

    Random numbers depend on (seed, agent, purpose, epoch) and nothing else.

    Args:
        index: The agent's number, from 0.
        model: The agent's model.
        optimizer: The optimizer of the model's parameters.
        schedule: The schedule of the optimizer's learning rate, advanced once a step.
        shard: The agent's own images.
        topology: Graph and mixing matrix of this step, for methods that exchange in steps.
        seed: Seed of the run, >= 0.
        batch_size: Images of a training step, >= 1.
        merging: The settings that the agent's merges depend on.
        augment: Whether training images are augmented.
        precision: Arithmetic of forward passes: float32, or bfloat16 by autocast.
        clip_norm: Norm that the gradient of a step is scaled down to, over all parameters, > 0;
            None: never.
        accumulate: Pieces in which a batch is run, one after another, >= 1.
        ema: Decay of the moving average of the weights, in (0, 1); None: there is none.
        local_loss: The loss of a training step; evaluation is by that of the task.
        distill: Weight of not-true distillation from the network that the training of a round
            begins with (:meth:`begin_training`), >= 0.
        task: The task, which says what is measured.
        gauge: Id of the unit order that the model is in; the agent's own order if None.
        steps: Training steps taken on this shard.
        epochs: Completed passes over a shard, pre-training included.
        kept: States that the method keeps, by name.
        traffic: Counters of bytes sent and received and of busy seconds.

    Attributes:
        parameters: The model's parameters by name; tied ones occur once.
        teacher: The state that the training of this round began with, but for running statistics,
            which go on; tied tensors occur once. None before the first round, and where nothing is
            distilled.
        average: The moving average of the weights since the last merge; None before the first step
            after it, and where there is none.
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
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    local_loss: LocalLoss = field(default_factory=LocalLoss)
    distill: float = 0.0
    task: Task = CLASSIFICATION
    gauge: GaugeId | None = None
    steps: int = 0
    epochs: int = 0
    kept: dict[str, State] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    parameters: dict[str, nn.Parameter] = field(init=False, repr=False)
    teacher: State | None = field(default=None, init=False, repr=False)
    average: WeightAverage | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        # Looked up once: a walk over all modules costs as much as a small model's step.
        self.parameters = dict(self.model.named_parameters())
        self._stream = self._batches()
        self._batch: tuple[Tensor, Tensor] | None = None
        self._losses: list[Tensor] = []

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(iter(self.parameters.values())).device

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state(self) -> State:
        """A copy of the agent's state."""
        return state_of(self.model)

    def load(self, state: State) -> None:
        """Load a state into the model, in place; or, if agents exchange a part, that part of it."""
        put_into(self.model, state, part=self.merging.exchanged is not None)

    def evaluated_state(self) -> State:
        """A copy of the state that is evaluated and saved: the average, or the agent's own."""
        return self.state() if self.average is None else clone(self.average.state)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the average of its weights, if there is one, and then its own again."""
        if self.average is None:
            yield
            return
        kept = self.state()
        self.load(self.average.state)
        try:
            yield
        finally:
            self.load(kept)

    def note_step(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Take the state after a training step into the average, if there is to be one.

        Args:
            state: The state; None: that of the model.
        """
        if self.ema is None:
            return
        own = tensors_of(self.model.state_dict())
        there = own if state is None else {key: state.get(key, own[key]) for key in own}
        if self.average is None:
            self.average = WeightAverage.begun(there)
        else:
            self.average.add(there, self.ema)

    def autocast(self) -> AbstractContextManager[None]:
        """The context of forward passes: autocast to bfloat16, or none for float32."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images and labels of the next training step, which is counted as taken."""
        self._batch = next(self._stream)
        return self._batch

    def begin_training(self) -> None:
        """Note the network that the training of a round begins with, if it is distilled."""
        if self.distill:
            once = {*self.parameters, *(name for name, _ in self.model.named_buffers())}
            self.teacher = {key: own for key, own in self.state().items() if key in once}

    def gradient(self) -> State:
        """Gradient of the loss on the next batch, by parameter; updates running statistics."""
        self.batch()
        self._draw_noise()
        losses = []
        for inputs, labels, share in self._pieces():
            before = self._before(inputs)
            self.model.train()
            with self.autocast():
                loss = self._loss(self.model(inputs), before, labels, share)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self._losses.append(losses[0] if len(losses) == 1 else torch.stack(losses).sum())
        gradient = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        self._drop_gradient()
        return self._clipped(gradient)

    def _pieces(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """The pieces of the last batch, and the share of its images that each has."""
        assert self._batch is not None, "gradient() draws the batch"
        pieces = min(self.accumulate, len(self._batch[1]))
        for x, y in zip(*(own.tensor_split(pieces) for own in self._batch), strict=True):
            yield x, y, len(y) / len(self._batch[1])

    def _clipped(self, gradient: State) -> State:
        """A gradient, scaled down to the norm that it may have."""
        return gradient if self.clip_norm is None else clip(gradient, self.clip_norm)

    def _before(self, inputs: Tensor) -> Tensor | None:
        """Logits of the network that this round's training began with; None: not distilled.

        As the network in training it normalizes by the batch and draws the same noise. By running
        statistics, which are of the images of all agents, its logits are on another scale: a CNN by
        class that is drawn to those falls to half of what it has without.
        """
        if self.teacher is None:
            return None
        self.model.train()
        devices = [] if self.device.type == "cpu" else [self.device]
        with torch.no_grad(), self.autocast(), torch.random.fork_rng(devices):
            logits: Tensor = functional_call(self.model, self.teacher, (inputs,))
        return logits

    def _loss(self, logits: Tensor, before: Tensor | None, labels: Tensor, share: float) -> Tensor:
        """The share of a piece of a batch in the loss of a training step."""
        loss = self.local_loss(logits, labels)
        if before is not None:
            loss = loss + self.distill * not_true_distillation(logits, before, labels)
        return loss if share == 1 else share * loss

    def _drop_gradient(self) -> None:
        """Free the gradients, so that none takes memory while other agents train."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def gradient_at(self, state: Mapping[str, Tensor]) -> State:
        """Gradient at another state on the batch of the last :meth:`gradient`, by parameter.

        Args:
            state: The state; not changed, and neither is the agent.
        """
        names = [name for name, p in self.parameters.items() if p.requires_grad]
        buffers = [name for name, _ in self.model.named_buffers() if name in state]
        frozen = [name for name, p in self.parameters.items() if not p.requires_grad]
        # A forward pass writes running statistics; tied weights are given once.
        there = clone({name: state[name] for name in (*names, *frozen, *buffers)})
        wanted = [there[name].requires_grad_() for name in names]
        self._draw_noise()
        gradient: State = {}
        for inputs, labels, share in self._pieces():
            before = self._before(inputs)
            self.model.train()
            with self.autocast():
                logits = functional_call(self.model, there, (inputs,))
                loss = self._loss(logits, before, labels, share)
            found = torch.autograd.grad(loss, wanted, allow_unused=True)
            for name, own in zip(names, found, strict=True):
                if own is not None:
                    gradient[name] = gradient[name] + own if name in gradient else own
        return self._clipped(gradient)

    def _draw_noise(self) -> None:
        """Seed PyTorch's generator, which dropout draws from, by agent, epoch and step."""
        noise = generator(self.seed, self.index, NOISE, self.epochs, self.steps).initial_seed()
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(noise)  # torch.manual_seed: 80 us, for all devices
        else:
            torch.manual_seed(noise)

    def update(self, gradient: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """Take one optimizer step along a gradient.

        Args:
            gradient: Gradient by parameter name; parameters that are missing do not move.
            scale: Factor on the learning rate of this step.
        """
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
        """Multiply the momentum buffers of momentum SGD by a factor."""
        for memory in self.optimizer.state.values():
            if memory.get("momentum_buffer") is not None:
                memory["momentum_buffer"].mul_(factor)

    def schedule_at(self, place: int) -> None:
        """Set the learning rate to its scheduled value after ``place`` steps, >= 0."""
        schedule = self.schedule
        schedule.last_epoch = place
        rates = [b * f(place) for b, f in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        note_steps(schedule, place, rates)

    def note_losses(self, losses: Tensor) -> None:
        """Record the training losses, (steps,), of steps taken outside of :meth:`gradient`."""
        self._losses.extend(losses)

    def loss(self) -> float:
        """Mean training loss of the steps since the last call; NaN if there was none.

        Raises:
            TrainingError: If the loss is not finite.
        """
        losses, self._losses = self._losses, []
        mean = float(torch.stack(losses).mean()) if losses else float("nan")
        if losses and not math.isfinite(mean):
            raise TrainingError(f"agent {self.index}: the training loss is not finite ({mean})")
        return mean

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches from the counted step and epoch on; advances both counters.

        Nothing happens before the first batch is asked for, so counters that a snapshot restores
        after the agent was made count.
        """
        while True:
            last = self.shard.num_batches(self.batch_size) - 1
            skip = self.steps % (last + 1)
            random = generator(self.seed, self.index, TRAIN, self.epochs, device=self.device)
            epoch = self.shard.epoch(self.batch_size, random, self.augment, skip)
            for k, batch in enumerate(epoch, skip):
                self.steps += 1
                self.epochs += k == last
                yield batch

    def calibration(self, purpose: int, round_number: int, images: int) -> Sequence[Tensor]:
        """Batches of the agent's own training images, alike for every method of one seed.

        Args:
            purpose: Number of the random stream that draws the images.
            round_number: The round, from 1; 0 for diagnostics.
            images: Images to draw, at most.
        """
        random = generator(self.seed, self.index, purpose, round_number, device=self.device)
        return self.shard.calibration(images, _CALIBRATED, random)

    # --- the merge of a round (round.py) ------------------------------------------------------

    def context(self, number: int) -> RoundContext:
        """The agent's state, graph, images and optimizer memory at the beginning of a merge.

        Args:
            number: The round, from 1.

        Raises:
            TrainingError: If the state is not finite.
        """
        own = self.merging
        state = state_of(self.model, own.exchanged)
        try:
            check_finite(state, f"agent {self.index}")
        except StructureError as error:
            raise TrainingError(
                f"{own.method}, round {number}, before the merge: {error}; training diverges"
            ) from error
        return RoundContext(
            agent=self.index,
            round=number,
            state=state,
            topology=own.topology.at(number - 1),
            parameters=[name for name in self.parameters if name in state],
            analysis=own.analysis,
            batches=lambda: self.calibration(MATCH, number, own.matching_images),
            gauge=self.gauge,
            memory=memory_of(self.optimizer, self.model) if own.on_merge == "mix" else {},
            rounds=own.rounds,
            images=len(self.shard),
            kept=self.kept,
            task=self.task,
        )

    def take_over(self, me: RoundContext, result: RoundResult) -> float:
        """Load the merged state, move the optimizer along, recalibrate; returns the seconds."""
        start = time.perf_counter()
        self.load(result.state)
        self.gauge = result.gauge or self.gauge
        self.kept = {name: dict(own) for name, own in result.kept.items()}
        self._carry_optimizer(result)
        self._carry_average(result)
        self.traffic.busy_s += time.perf_counter() - start
        if result.mixed and not result.calibrated:
            self.recalibrate(me.round)
        return time.perf_counter() - start

    def _carry_optimizer(self, result: RoundResult) -> None:
        """Replace the optimizer's memory by the mixed one, move it with the units, or reset it."""
        if result.mixed and self.merging.on_merge == "reset":
            reset_optimizer(self.optimizer)
        elif result.memory is not None:
            load_memory(self.optimizer, self.model, result.memory)
        elif result.permutation is not None:
            symmetry, p = self.merging.analysis().symmetry, result.permutation
            permute_optimizer(self.optimizer, self.model, lambda e: symmetry.apply(p, e))

    def _carry_average(self, result: RoundResult) -> None:
        """End the average of weights at a merge; where units only move, it moves with them."""
        if result.mixed:
            self.average = None
        elif self.average is not None and result.permutation is not None:
            symmetry, p = self.merging.analysis().symmetry, result.permutation
            self.average.move(lambda state: symmetry.apply(p, state))

    def recalibrate(self, number: int) -> float:
        """Recompute BatchNorm statistics of the merged model on the agent's own images, if set.

        A step of the round, whether that round is evaluated or not: the next merge mixes these
        statistics, and matches units by activations that depend on them.

        Args:
            number: The round, from 1.

        Returns:
            Seconds spent, which are added to ``traffic.busy_s``.
        """
        start = time.perf_counter()
        if self.merging.recalibration_images and calibrated_norms(self.model):
            images = self.calibration(RECALIBRATE, number, self.merging.recalibration_images)
            with self.autocast():  # the arithmetic of its evaluation
                recalibrate(self.model, images)
                if self.average is not None:
                    with self.averaged():
                        recalibrate(self.model, images)
                        self.average.state = self.state()
        spent = time.perf_counter() - start
        self.traffic.busy_s += spent
        return spent

    def evaluate(
        self,
        inputs: Rows,
        targets: Rows,
        batch_size: int = 1000,
        *,
        observe: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Mapping[str, float]:
        """The mean loss and the metrics of the task, by name; NaN without samples.

        Args:
            inputs: Inputs as the model gets them.
            targets: Their targets.
            batch_size: Samples of a forward pass, >= 1; fewer of large ones that have to be read.
            observe: Receives the outputs and targets of every pass.
        """
        self.model.eval()
        each = []
        with torch.no_grad(), self.autocast():
            for x, y in in_batches(inputs, targets, batch_size):
                outputs = self.model(x).float()
                each.append(self.task.totals(outputs, y))
                if observe is not None:
                    observe(outputs, y)
        return self.task.measure(functools.reduce(operator.add, each).cpu())


def clip(gradient: State, norm: float) -> State:
    """A gradient of this norm over all parameters, or as it is if its norm is smaller.

    Args:
        gradient: Gradient by parameter name.
        norm: The norm, > 0.
    """
    parts = [torch.linalg.vector_norm(own.float()) for own in gradient.values()]
    if not parts:
        return gradient
    factor = (norm / torch.linalg.vector_norm(torch.stack(parts))).clamp(max=1.0)
    return {name: own * factor.to(own.dtype) for name, own in gradient.items()}


def parameter_names(model: nn.Module) -> Sequence[str]:
    """The state keys of a model's parameters."""
    return [name for name, _ in model.named_parameters()]
