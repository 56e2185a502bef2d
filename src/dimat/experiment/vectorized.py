"""Agents that train at once: side by side in one stack, one forward and backward pass for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional

from dimat.agent import Agent
from dimat.errors import ConfigError
from dimat.experiment.config import OptimizerConfig
from dimat.experiment.setup import Setup, make_optimizer


def train_all(
    setup: Setup, agents: Sequence[Agent], steps: Sequence[int], done: Callable[[int], None]
) -> None:
    """Train agents that do not talk meanwhile, as many at once as ``setup.config.vectorize`` says.

    Args:
        setup: Of the agents.
        agents: Of this process.
        steps: How many each takes; where one has taken its own, the others of its stack go on.
        done: Told how many agents have theirs behind them, each time.

    Raises:
        ConfigError: If the model cannot be run for several states at once.
    """
    done(sum(count == 0 for count in steps))
    for stack, count in _stacks(setup, agents, steps):
        start = time.perf_counter()
        train_at_once([a for a, _ in stack], count, setup.config.optimizer)
        for agent, _ in stack:
            agent.traffic.busy_s += (time.perf_counter() - start) / len(stack)
        done(sum(left == count for _, left in stack))


def _stacks(
    setup: Setup, agents: Sequence[Agent], steps: Sequence[int]
) -> Iterator[tuple[list[tuple[Agent, int]], int]]:
    """Agents at the same pace, with the steps that are left to them; and how many to take now.

    The same pace: learning rates that are and stay alike, optimizers that have taken as many steps.
    """
    alike: dict[Any, list[tuple[Agent, int]]] = {}
    for agent, count in zip(agents, steps, strict=True):
        length = setup.pretrain_steps(agent.index), setup.round_steps(agent.index)
        schedule = (*length, agent.schedule.last_epoch)
        pace = schedule if setup.config.optimizer.schedule != "constant" else ()
        alike.setdefault((pace, tuple(_counters(agent))), []).append((agent, count))
    for group in alike.values():
        group.sort(key=lambda own: own[1])
        for k in range(0, len(group), setup.config.vectorize):
            stack, taken = group[k : k + setup.config.vectorize], 0
            while stack := [(a, count) for a, count in stack if count > taken]:
                now = stack[0][1] - taken
                yield [(a, count - taken) for a, count in stack], now
                taken += now


def _counters(agent: Agent) -> Iterator[tuple[str, float]]:
    """What the optimizer remembers that is not of single weights: how many steps it has taken."""
    for parameter in agent.parameters.values():
        for kind, value in agent.optimizer.state.get(parameter, {}).items():
            if not _of_weights(value, parameter):
                yield kind, float(value)


def _of_weights(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape == parameter.shape


def train_at_once(agents: Sequence[Agent], steps: int, optimizer: OptimizerConfig) -> None:
    """Take ``steps`` training steps with every agent, each on its own batches, in one go.

    Every agent comes to where it would have come alone, but for rounding: sums over a stack are
    taken in another order.

    Args:
        agents: Of one architecture and pace; changed in place.
        steps: >= 0.
        optimizer: Settings of the agents' optimizers, which update element by element.

    Raises:
        ConfigError: If the model cannot be run for several states at once.
    """
    if len(agents) == 1:
        for _ in range(steps):
            agents[0].update(agents[0].gradient())
        return
    stack = _Stack(agents, optimizer)
    losses = [stack.step() for _ in range(steps)]
    stack.hand_back()
    if losses:
        for agent, own in zip(agents, torch.stack(losses, 1), strict=True):
            agent.note_losses(own)


class _Stack:
    """Parameters, buffers and optimizer memory of several agents, the agents as a first axis."""

    def __init__(self, agents: Sequence[Agent], optimizer: OptimizerConfig) -> None:
        self.agents, self.first = agents, agents[0]
        self.parameters = {
            name: torch.stack([a.parameters[name].detach() for a in agents])
            for name in self.first.parameters
        }
        for name, own in self.first.parameters.items():
            self.parameters[name].requires_grad_(own.requires_grad)
        self._buffers = [dict(a.model.named_buffers()) for a in agents]
        self.buffers = {
            name: torch.stack([own[name] for own in self._buffers]) for name in self._buffers[0]
        }
        self.optimizer = make_optimizer(optimizer, list(self.parameters.values()))
        for name, stacked in self.parameters.items():
            owns = [a.optimizer.state.get(a.parameters[name], {}) for a in agents]
            for kind, value in owns[0].items():
                of_weights = _of_weights(value, self.first.parameters[name])
                every = torch.stack([own[kind] for own in owns]) if of_weights else _copy(value)
                self.optimizer.state[stacked][kind] = every

    def step(self) -> Tensor:
        """The loss of every agent on its next batch, after which all take a step."""
        batches = [agent.batch() for agent in self.agents]
        inputs, labels = (torch.stack(own) for own in zip(*batches, strict=True))
        self.first.model.train()
        try:
            with self.first.autocast():
                losses: Tensor = vmap(self._loss, randomness="error")(
                    self.parameters, self.buffers, inputs, labels
                )
        except RuntimeError as error:
            raise ConfigError(
                "vectorize is more than 1, but this model cannot train several "
                f"agents at once: {str(error).splitlines()[0]} Set vectorize to 1. (Dropout and "
                "the like draw from a stream of each agent's own.)"
            ) from error
        losses.sum().backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = self.first.lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for agent in self.agents:
            agent.schedule_at(agent.schedule.last_epoch + 1)
        return losses.detach()

    def _loss(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> Tensor:
        logits = functional_call(self.first.model, (parameters, buffers), (x,))
        return functional.cross_entropy(logits.float(), y)

    @torch.no_grad()
    def hand_back(self) -> None:
        """Give every agent its own again."""
        for k, agent in enumerate(self.agents):
            for name, own in agent.parameters.items():
                stacked = self.parameters[name]
                own.copy_(stacked[k])
                memory = self.optimizer.state.get(stacked)
                if memory:
                    agent.optimizer.state[own] = {
                        kind: value[k].clone() if _of_weights(value, stacked) else _copy(value)
                        for kind, value in memory.items()
                    }
            for name, buffer in self._buffers[k].items():
                buffer.copy_(self.buffers[name][k])


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
