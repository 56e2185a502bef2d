"""Vectorized training: agents side by side in one stack, with one forward and backward pass."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from dimat.errors import ConfigError
from dimat.experiment.config.config import OptimizerConfig
from dimat.experiment.setup import Setup, make_optimizer
from dimat.losses import not_true_distillation
from dimat.methods import Method
from dimat.state import State
from dimat.training.trainer import LocalTrainer, clip

Done = Callable[[Sequence[LocalTrainer]], None]


def trains_at_once(setup: Setup, method: Method | None = None) -> bool:
    """Whether agents train in stacks: set so, several of them, and no exchange in steps.

    Args:
        setup: Setup of the run.
        method: The method whose local steps are taken; None for pre-training.
    """
    own_step = method is not None and type(method).step is not Method.step
    return setup.config.vectorize > 1 and setup.config.agents > 1 and not own_step


def train_all(
    setup: Setup, agents: Sequence[LocalTrainer], steps: Sequence[int], done: Done
) -> None:
    """Train agents that do not exchange, in stacks of at most ``setup.config.vectorize`` agents.

    Args:
        setup: Setup of the run.
        agents: Agents of this process; changed in place.
        steps: Number of training steps of each agent, >= 0; when an agent of a stack has taken its
            own, the others go on.
        done: Called with the agents that have just taken their last step.

    Raises:
        ConfigError: If the model cannot be run for several states at once.
    """
    done([agent for agent, count in zip(agents, steps, strict=True) if count == 0])
    for group in _alike(setup, agents, steps):
        for k in range(0, len(group), setup.config.vectorize):
            for stack, count, last in _shrinking(group[k : k + setup.config.vectorize]):
                start = time.perf_counter()
                train_at_once(stack, count, setup.config.optimizer)
                each_s = (time.perf_counter() - start) / len(stack)
                for agent in stack:
                    agent.traffic.busy_s += each_s
                done(last)


def _alike(
    setup: Setup, agents: Sequence[LocalTrainer], steps: Sequence[int]
) -> list[list[tuple[LocalTrainer, int]]]:
    """Agents with their steps, in groups that can be stacked.

    The agents of a group have the same learning rates from here on, and the same kinds of optimizer
    memory: equal step counts, for Adam, and momenta or none.
    """
    groups: dict[Any, list[tuple[LocalTrainer, int]]] = {}
    for agent, count in zip(agents, steps, strict=True):
        length = setup.pretrain_steps(agent.index), setup.round_steps(agent.index)
        place = (*length, agent.schedule.last_epoch)
        own = setup.config.optimizer
        varies = own.schedule != "constant" or own.warmup_steps
        rates = place if varies else None
        groups.setdefault((rates, tuple(_remembered(agent))), []).append((agent, count))
    return list(groups.values())


def _remembered(agent: LocalTrainer) -> Iterator[tuple[str, str, float | None]]:
    """Keys of the optimizer's memory by parameter and kind, with the value of step counters."""
    for name, parameter in agent.parameters.items():
        for kind, value in agent.optimizer.state.get(parameter, {}).items():
            yield name, kind, float(value) if kind == "step" else None


def _of_weights(kind: str, value: Any) -> bool:
    """Whether optimizer memory has an entry for each weight, unlike step counters."""
    return isinstance(value, Tensor) and kind != "step"


def _shrinking(
    group: Sequence[tuple[LocalTrainer, int]],
) -> Iterator[tuple[list[LocalTrainer], int, list[LocalTrainer]]]:
    """Stages of a group: the agents still training, their steps, and those that then are done."""
    taken = 0
    for end in sorted({count for _, count in group if count}):
        stack = [agent for agent, count in group if count >= end]
        yield stack, end - taken, [agent for agent, count in group if count == end]
        taken = end


def train_at_once(agents: Sequence[LocalTrainer], steps: int, optimizer: OptimizerConfig) -> None:
    """Take training steps with all agents in one stack, each on its own batches.

    Every agent gets the state that it would have got alone, but for rounding: sums over a stack are
    taken in another order. Attributes of the model that are neither parameters nor buffers are
    shared by all agents.

    Args:
        agents: Agents of one architecture, with equal learning rates and kinds of optimizer memory;
            changed in place.
        steps: Number of training steps, >= 0.
        optimizer: Settings of the agents' optimizers, which must update element by element.

    Raises:
        ConfigError: If the model cannot be run for several states at once.
    """
    if len(agents) == 1:
        for _ in range(steps):
            agents[0].update(agents[0].gradient())
            agents[0].note_step()
        return
    stack = _Stack(agents, optimizer)
    losses = [stack.step() for _ in range(steps)]
    stack.hand_back()
    if losses:
        for agent, own in zip(agents, torch.stack(losses, 1), strict=True):
            agent.note_losses(own)


def check_trains_at_once(setup: Setup) -> None:
    """Try one step with a stack of two spare agents, if agents are to train in stacks.

    Args:
        setup: Setup of the run.

    Raises:
        ConfigError: If their model cannot be run for several states at once.
    """
    if trains_at_once(setup):
        pair = [setup.new_agent(i, pretraining=False) for i in (0, 1)]
        train_at_once(pair, 1, setup.config.optimizer)


class _Stack:
    """Parameters, buffers and optimizer memory of several agents, stacked along a first axis."""

    def __init__(self, agents: Sequence[LocalTrainer], optimizer: OptimizerConfig) -> None:
        self.agents, self.first = agents, agents[0]
        self.parameters = {
            name: torch.stack([agent.parameters[name].detach() for agent in agents])
            for name in self.first.parameters
        }
        for name, own in self.first.parameters.items():
            self.parameters[name].requires_grad_(own.requires_grad)
        buffers = [dict(agent.model.named_buffers()) for agent in agents]
        self.buffers = {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]}
        offsets = [x for agent in agents if (x := agent.local_loss.offset) is not None]
        self.offsets = torch.stack(offsets) if offsets else None  # all agents have one, or none has
        # Likewise: all agents have begun the training of a round, or none has.
        before = [state for agent in agents if (state := agent.teacher) is not None]
        self.teachers: State = {
            name: torch.stack([one[name] for one in before]) for name in (before or [{}])[0]
        }
        self.optimizer = make_optimizer(optimizer, list(self.parameters.values()))
        for name, stacked in self.parameters.items():
            owns = [agent.optimizer.state.get(agent.parameters[name], {}) for agent in agents]
            for kind, value in owns[0].items():
                self.optimizer.state[stacked][kind] = (
                    torch.stack([own[kind] for own in owns])
                    if _of_weights(kind, value)
                    else copy.deepcopy(value)
                )

    def step(self) -> Tensor:
        """Take one step with all agents; returns the loss of each on its batch, (agents,)."""
        batches = [agent.batch() for agent in self.agents]
        inputs, labels = (torch.stack(own) for own in zip(*batches, strict=True))
        losses = self._backward(inputs, labels)
        for group in self.optimizer.param_groups:
            group["lr"] = self.first.lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for agent in self.agents:
            agent.schedule_at(agent.schedule.last_epoch + 1)
        self._note_step()
        return losses

    def _note_step(self) -> None:
        """Take the state of each agent into the average of its weights, if there is to be one."""
        if self.first.ema is None:
            return
        stacked = {**self.parameters, **self.buffers}
        for k, agent in enumerate(self.agents):
            agent.note_step({name: own[k] for name, own in stacked.items()})

    def _backward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Compute the gradients of all agents; returns the loss of each, (agents,)."""
        try:
            before = None
            with self.first.autocast():
                self.first.model.train()
                if self.teachers:
                    with torch.no_grad():
                        before = vmap(self._logits)(self.teachers, inputs)
                more = [None if own is None else 0 for own in (self.offsets, before)]
                losses, buffers = vmap(self._loss, (0, 0, 0, 0, *more), randomness="error")(
                    self.parameters, self.buffers, inputs, labels, self.offsets, before
                )
            losses.sum().backward()  # type: ignore[no-untyped-call]
            self._clip()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ConfigError(
                "setting 'vectorize' is more than 1, but this model cannot train several agents at "
                f"once: use --vectorize 1 (vmap: {str(error).splitlines()[0]} Dropout and the like "
                "draw from a stream of each agent's own)"
            ) from error
        self.buffers = {name: value.detach() for name, value in buffers.items()}
        return losses.detach()

    def _clip(self) -> None:
        """Scale the gradient of each agent down to the norm that it may have."""
        norm = self.first.clip_norm
        if norm is None:
            return
        found = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for name, own in vmap(lambda one: clip(one, norm))(found).items():
            self.parameters[name].grad = own

    def _logits(self, state: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.first.model, state, (x,))
        return logits

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        y: Tensor,
        offset: Tensor | None,
        before: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        own = {**parameters, **buffers}  # the model may replace a buffer by another tensor
        logits = self._logits(own, x)
        loss = replace(self.first.local_loss, offset=offset)(logits, y)
        if before is not None:
            loss = loss + self.first.distill * not_true_distillation(logits, before, y)
        return loss, {name: own[name] for name in buffers}

    @torch.no_grad()
    def hand_back(self) -> None:
        """Copy parameters, buffers and optimizer memory back into every agent."""
        for k, agent in enumerate(self.agents):
            for name, own in agent.parameters.items():
                stacked = self.parameters[name]
                own.copy_(stacked[k])
                memory = self.optimizer.state.get(stacked)
                if memory:
                    agent.optimizer.state[own] = {
                        kind: torch.empty_like(own).copy_(value[k])
                        if _of_weights(kind, value)
                        else copy.deepcopy(value)
                        for kind, value in memory.items()
                    }
            for name, buffer in agent.model.named_buffers():
                buffer.copy_(self.buffers[name][k])
