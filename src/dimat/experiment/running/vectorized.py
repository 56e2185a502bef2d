"""Vectorized training: agents side by side in one stack, with one forward and backward pass.

There are two ways to run a model for several agents. One takes any model, and rounds otherwise than
agents one by one (``torch.func.vmap``); the other one takes models of linear layers, and rounds as
they do (:mod:`dimat.training.stacked`). A trial says at the beginning of a run whether the second
way gives the same bits, so that nothing but time depends on it: then agents of small models are
stacked unless the settings say otherwise.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from dimat.errors import ConfigError, TrainingError
from dimat.experiment.config.config import OptimizerConfig
from dimat.experiment.setup import Setup, make_optimizer
from dimat.losses import not_true_distillation, not_true_divergences
from dimat.methods import Method
from dimat.models.mlp import MLP
from dimat.state import State
from dimat.tasks import CLASSIFICATION
from dimat.training.stacked import StackedModel, only_linear, same_elementwise
from dimat.training.trainer import LocalTrainer, clip

Done = Callable[[Sequence[LocalTrainer]], None]
# Parameters of all agents of a stack, if the settings do not say how many agents it has: more, with
# gradients and moments, leave the cache (benchmarks/vectorize.py).
_MOST_PARAMETERS = 2**19
_TRIED_AGENTS, _TRIED_STEPS = 3, 2
_EXACT = (nn.Linear, nn.ReLU, nn.Flatten, nn.Identity, nn.Sequential, MLP)


def stack_size(setup: Setup) -> int:
    """The number of agents that train at once, at most: that of the settings, or what pays.

    Args:
        setup: Setup of the run, :func:`tried`; of one that is not, agents take their turns if the
            settings do not say otherwise.
    """
    return setup.config.vectorize or max(1, setup.exact_stack)


def trains_at_once(setup: Setup, method: Method | None = None) -> bool:
    """Whether agents train in stacks: set so, several of them, and no exchange in steps.

    Args:
        setup: Setup of the run.
        method: The method whose local steps are taken; None for pre-training.
    """
    own_step = method is not None and type(method).step is not Method.step
    return setup.config.agents > 1 and not own_step and stack_size(setup) > 1


def train_all(
    setup: Setup, agents: Sequence[LocalTrainer], steps: Sequence[int], done: Done
) -> None:
    """Train agents that do not exchange, in stacks of at most :func:`stack_size` agents.

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
    size = stack_size(setup)
    for group in _alike(setup, agents, steps):
        for k in range(0, len(group), size):
            for stack, count, last in _shrinking(group[k : k + size]):
                start = time.perf_counter()
                train_at_once(stack, count, setup.config.optimizer, exact=setup.exact_stack > 0)
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


def _copied(value: Any) -> Any:
    """A copy of a step counter or the like."""
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _dealt(memories: list[dict[str, Any]], parts: int) -> list[list[dict[str, Any]]]:
    """The agents' memories of a parameter by part of it: all of them for one, else one for each."""
    return [memories] if parts == 1 else [[own] for own in memories]


def _stacked_memory(memories: Sequence[dict[str, Any]], whole: bool) -> dict[str, Any]:
    """The memory of what an optimizer updates, out of that of the agents that it is of."""
    return {
        kind: (torch.stack([own[kind] for own in memories]) if whole else value.clone())
        if _of_weights(kind, value)
        else _copied(value)
        for kind, value in memories[0].items()
    }


def _shrinking(
    group: Sequence[tuple[LocalTrainer, int]],
) -> Iterator[tuple[list[LocalTrainer], int, list[LocalTrainer]]]:
    """Stages of a group: the agents still training, their steps, and those that then are done."""
    taken = 0
    for end in sorted({count for _, count in group if count}):
        stack = [agent for agent, count in group if count >= end]
        yield stack, end - taken, [agent for agent, count in group if count == end]
        taken = end


def train_at_once(
    agents: Sequence[LocalTrainer],
    steps: int,
    optimizer: OptimizerConfig,
    *,
    exact: bool = False,
) -> None:
    """Take training steps with all agents in one stack, each on its own batches.

    Every agent gets the state that it would have got alone, but for rounding unless ``exact``: sums
    over a stack are taken in another order. Attributes of the model that are neither parameters nor
    buffers are shared by all agents.

    Args:
        agents: Agents of one architecture, with equal learning rates and kinds of optimizer memory;
            changed in place.
        steps: Number of training steps, >= 0.
        optimizer: Settings of the agents' optimizers, which must update element by element.
        exact: Whether the stack rounds as the agents do one by one, which is for models that a
            trial has shown to do so (:func:`tried`).

    Raises:
        ConfigError: If the model cannot be run for several states at once.
    """
    if len(agents) == 1:
        for _ in range(steps):
            agents[0].update(agents[0].gradient())
            agents[0].note_step()
        return
    stack = (_ExactStack if exact else _Stack)(agents, optimizer)
    losses = [stack.step() for _ in range(steps)]
    stack.hand_back()
    if losses:
        for agent, own in zip(agents, torch.stack(losses, 1), strict=True):
            agent.note_losses(own)


def tried(setup: Setup) -> Setup:
    """The setup, with what a few steps of spare agents show of its model: whether stacks are exact.

    Args:
        setup: Setup of the run.

    Raises:
        ConfigError: If agents are to train in stacks by the settings, and their model cannot be run
            for several states at once.
    """
    config = setup.config
    if config.agents == 1 or config.vectorize == 1:
        return setup
    if _may_be_exact(setup) and _same_bits(setup):
        parameters = sum(p.numel() for p in setup.new_model(0).parameters())
        return replace(setup, exact_stack=max(1, _MOST_PARAMETERS // parameters))
    if trains_at_once(setup):
        pair = [setup.new_agent(i, pretraining=False) for i in (0, 1)]
        train_at_once(pair, 1, config.optimizer)
    return setup


def _may_be_exact(setup: Setup) -> bool:
    """Whether a trial can show that stacks are exact, and is of use."""
    config, model = setup.config, setup.new_model(0)
    plain = config.device == "cpu" and config.precision == "float32"
    if not plain or config.optimizer.accumulate > 1 or not only_linear(model):
        return False
    return config.vectorize is not None or all(map(_known, model.modules()))


def _known(module: nn.Module) -> bool:
    """Whether a module remembers nothing of a pass and, but for linear layers, does not round.

    A trial does not see what others may remember, nor how they round in stacks of other sizes.
    """
    return type(module) in _EXACT and not module._forward_hooks and not module._forward_pre_hooks


def _same_bits(setup: Setup) -> bool:
    """Whether spare agents come to the same bits in a stack as one after another."""
    found = []
    for exact in (True, False):
        numbers = range(min(_TRIED_AGENTS, setup.config.agents))
        agents = [setup.new_agent(i, pretraining=False) for i in numbers]
        for agent in agents:
            agent.begin_training()
        try:
            for group in [agents] if exact else [[own] for own in agents]:
                train_at_once(group, _TRIED_STEPS, setup.config.optimizer, exact=exact)
            found.append([list(_bits(agent)) for agent in agents])
        except (ConfigError, TrainingError):  # what diverges says nothing; the run will tell of it
            return False
    return all(
        len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))
        for ours, theirs in zip(*found, strict=True)
    )


def _bits(agent: LocalTrainer) -> Iterator[Tensor]:
    """All tensors that training changes in an agent, and its mean loss."""
    memories = (agent.optimizer.state.get(own, {}) for own in agent.parameters.values())
    for state in (agent.evaluated_state(), agent.state(), *memories):
        yield from (own for own in state.values() if isinstance(own, Tensor))
    yield torch.tensor(agent.loss(), dtype=torch.float64)


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
        # What the optimizer updates: all agents' tensors at once, or each by itself.
        self.updated = {name: self._updated(own) for name, own in self.parameters.items()}
        self.optimizer = make_optimizer(
            optimizer, [own for parts in self.updated.values() for own in parts]
        )
        for name, parts in self.updated.items():
            owns = [agent.optimizer.state.get(agent.parameters[name], {}) for agent in agents]
            for one, memories in zip(parts, _dealt(owns, len(parts)), strict=True):
                self.optimizer.state[one].update(_stacked_memory(memories, len(parts) == 1))

    def _updated(self, stacked: Tensor) -> list[Tensor]:
        """The tensors that stand for a stacked parameter in the optimizer."""
        return [stacked]

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
                own.copy_(self.parameters[name][k])
                parts = self.updated[name]
                whole = len(parts) == 1
                memory = self.optimizer.state.get(parts[0 if whole else k])
                if memory:
                    agent.optimizer.state[own] = {
                        kind: torch.empty_like(own).copy_(value[k] if whole else value)
                        if _of_weights(kind, value)
                        else _copied(value)
                        for kind, value in memory.items()
                    }
            for name, buffer in agent.model.named_buffers():
                buffer.copy_(self.buffers[name][k])


class _ExactStack(_Stack):
    """A stack in which every agent comes to the bits that it would have come to alone."""

    def __init__(self, agents: Sequence[LocalTrainer], optimizer: OptimizerConfig) -> None:
        super().__init__(agents, optimizer)
        for group in self.optimizer.param_groups:
            group["foreach"] = True  # the same bits in fewer calls
        self.model = StackedModel(self.first.model.train(), self.parameters)

    def _updated(self, stacked: Tensor) -> list[Tensor]:
        if same_elementwise(stacked[0].numel(), torch.get_num_threads()):
            return [stacked]
        return list(stacked.detach().unbind(0))

    def _backward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        before = None
        if self.teachers:
            with torch.no_grad():
                before = StackedModel(self.first.model, self.teachers)(inputs)
        losses, values = self._losses(self.model(inputs), before, labels)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._clip()
        for name, parts in self.updated.items():
            gradient = self.parameters[name].grad
            if len(parts) > 1 and gradient is not None:
                for own, part in zip(parts, gradient.unbind(0), strict=True):
                    own.grad = part
                self.parameters[name].grad = None
        return values

    def _losses(
        self, logits: Tensor, before: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of each agent, (agents,), for its gradient and, rounded as alone, its value."""
        own = self.first.local_loss
        plain = own.base == CLASSIFICATION.loss and not own.smoothing
        if not plain or logits.dim() != 3 or labels.dim() != 2:
            each = torch.stack(
                [self._loss_of(k, logits, before, labels) for k in range(len(labels))]
            )
            return each, each.detach()
        shifted = logits.float() if self.offsets is None else logits + self.offsets.unsqueeze(1)
        logs = shifted.log_softmax(2)
        rows = functional.nll_loss(logs.flatten(0, 1), labels.flatten(), reduction="none")
        losses = rows.view_as(labels).mean(1)
        with torch.no_grad():  # a sum in an order of its own, for which there is no batched one
            values = torch.stack(
                [functional.nll_loss(*one) for one in zip(logs, labels, strict=True)]
            )
        if before is None:
            return losses, values
        distilled = self.first.distill * self._apart(logits, before, labels)
        return losses + distilled, values + distilled.detach()

    def _apart(self, logits: Tensor, before: Tensor, labels: Tensor) -> Tensor:
        """The distance of each agent's outputs from those before, (agents,)."""
        if same_elementwise(logits[0].numel(), torch.get_num_threads()):
            flat = not_true_divergences(*(own.flatten(0, 1) for own in (logits, before, labels)))
            return flat.view_as(labels).mean(1)
        each = zip(logits, before, labels, strict=True)
        return torch.stack([not_true_distillation(*own) for own in each])

    def _loss_of(self, k: int, logits: Tensor, before: Tensor | None, labels: Tensor) -> Tensor:
        """The loss of one agent."""
        offset = None if self.offsets is None else self.offsets[k]
        loss = replace(self.first.local_loss, offset=offset)(logits[k], labels[k])
        if before is not None:
            loss = loss + self.first.distill * not_true_distillation(
                logits[k], before[k], labels[k]
            )
        return loss

    def _clip(self) -> None:
        norm = self.first.clip_norm
        if norm is None:
            return
        found = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for k in range(len(self.agents)):
            for name, own in clip({name: g[k] for name, g in found.items()}, norm).items():
                found[name][k] = own
