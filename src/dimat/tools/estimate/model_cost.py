"""Costs of one network, found on tensors that have shapes only, so that nothing is computed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dimat.compat import storage_of
from dimat.data import tensor_of
from dimat.experiment.setup import Setup
from dimat.state import State, num_bytes, tensors_of
from dimat.tasks import Task

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_BATCH = 2


@dataclass(frozen=True)
class ModelFacts:
    """One network.

    Args:
        parameters: Number of its weights.
        state: Its state, shapes and types only.
        gradient: Its gradients by parameter, likewise.
        forward_flops: Of an image; a multiplication and an addition are two.
        training_flops: Forward and backward, of an image; the optimizer's few are not counted.
        activation_bytes: What a forward pass keeps for the backward pass, of an image, in float32.
        has_running_statistics: Whether there is something to recalibrate.
    """

    parameters: int
    state: State
    gradient: State
    forward_flops: float
    training_flops: float
    activation_bytes: float
    has_running_statistics: bool

    @property
    def state_bytes(self) -> int:
        """Bytes of a copy of its state."""
        return num_bytes(self.state)

    @property
    def gradient_bytes(self) -> int:
        """Bytes of a copy of its gradients."""
        return num_bytes(self.gradient)


def model_facts(setup: Setup) -> ModelFacts:
    """The network that all agents of a run have.

    Operators that only move or scale numbers (BatchNorm, ReLU, pooling) are not counted.
    """
    data = setup.dataset
    model = copy.deepcopy(setup.new_model(0)).to("meta")
    inputs = data.example(_BATCH).to("meta")
    targets = tensor_of(data.train_y[:1]).repeat_interleave(_BATCH, 0).to("meta")
    forward = _forward(model, inputs)
    training, kept = _training(model, inputs, targets, setup.task)
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return ModelFacts(
        sum(p.numel() for p in model.parameters()),
        tensors_of(model.state_dict()),
        {name: p.detach() for name, p in wanted.items()},
        forward / _BATCH,
        training / _BATCH,
        kept / _BATCH,
        any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules()),
    )


def _counter() -> FlopCounterMode:
    from torch.utils.flop_counter import FlopCounterMode  # half a second

    return FlopCounterMode(display=False)


def _forward(model: nn.Module, inputs: Tensor) -> int:
    with torch.no_grad(), _counter() as counter:
        model.eval()(inputs)
    return int(counter.get_total_flops())


def _training(model: nn.Module, inputs: Tensor, targets: Tensor, task: Task) -> tuple[int, int]:
    """FLOP of a step, and the bytes that its forward pass keeps beside the weights."""
    own = {storage_of(p) for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        place = storage_of(value)
        if place not in own:
            kept[place] = value  # held, so that no other is put into its place
        return value

    def given(value: Any) -> Any:
        return value

    with _counter() as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, given):
            loss = task.loss(model.train()(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops()), sum(v.untyped_storage().nbytes() for v in kept.values())


def memory_entries(name: str, gradient: Mapping[str, Tensor]) -> State:
    """The memory of an optimizer that has stepped, entry by entry, as messages have it.

    Args:
        name: Of the optimizer.
        gradient: What it steps along.
    """
    kinds = {"sgd": (), "msgd": ("momentum_buffer",)}.get(name, ("exp_avg", "exp_avg_sq"))
    return {f"{kind}/{key}": value for kind in kinds for key, value in gradient.items()}
