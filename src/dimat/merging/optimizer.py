"""The optimizer's memory in a merge: it moves with the agent's units, is mixed, or forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from dimat.errors import StructureError
from dimat.merging.mix import mix
from dimat.state import State

Move = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
# Kind of memory (momentum_buffer, exp_avg, …) -> name of the parameter -> its value.
Memory = Mapping[str, State]


def memory_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, State]:
    """A copy of all momenta and moments; step counters are not among them.

    Args:
        optimizer: Of the parameters of ``model``.
        model: Names the parameters.
    """
    found: dict[str, State] = {}
    for kind, name, value in _entries(optimizer, model):
        found.setdefault(kind, {})[name] = value.detach().clone()
    return found


def load_memory(optimizer: torch.optim.Optimizer, model: nn.Module, memory: Memory) -> None:
    """Take over momenta and moments that :func:`memory_of` gave; step counters stay."""
    for kind, name, value in _entries(optimizer, model):
        value.copy_(memory[kind][name])


def mix_memory(memories: Sequence[Memory], weights: Sequence[float]) -> dict[str, State]:
    """The weighted average of memories in one unit order.

    Who has none yet (an optimizer that never stepped) is left out and the others count for more;
    an agent without a memory of its own keeps none, as it has no step counter to go with it.

    Args:
        memories: The agent's own first.
        weights: One per memory, >= 0, summing to 1.

    Raises:
        StructureError: If memories do not fit each other.
    """
    if not memories[0]:
        return {}
    known = [(m, w) for m, w in zip(memories, weights, strict=True) if m]
    total = sum(w for _, w in known)
    if total <= 0:  # all weight is on agents that have none
        return {kind: {k: v.clone() for k, v in own.items()} for kind, own in memories[0].items()}
    shares = [w / total for _, w in known]
    return {kind: mix([m[kind] for m, _ in known], shares) for kind in memories[0]}


def flat_memory(memory: Memory) -> State:
    """A memory as one message."""
    return {f"{kind}/{name}": v for kind, own in memory.items() for name, v in own.items()}


def nested_memory(message: Mapping[str, Tensor]) -> dict[str, State]:
    """What :func:`flat_memory` gave.

    Raises:
        StructureError: If a key is no ``kind/name``.
    """
    found: dict[str, State] = {}
    for key, value in message.items():
        kind, slash, name = key.partition("/")
        if not slash:
            raise StructureError(f"'{key}' is no entry of an optimizer's memory: write kind/name")
        found.setdefault(kind, {})[name] = value
    return found


def permute_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, move: Move) -> None:
    """Move momenta and moments as their parameters' units move; step counters stay.

    Args:
        optimizer: Of the parameters of ``model``; changed in place, it is the agent's own.
        model: Names the parameters.
        move: Takes entries by state key and returns them moved, as ``Symmetry.apply`` does.
    """
    for _, name, value in _entries(optimizer, model):
        value.copy_(move({name: value})[name])


def reset_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Forget all momenta and moments."""
    optimizer.state.clear()


def _entries(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> Iterator[tuple[str, str, Tensor]]:
    """(kind, parameter, value) of all that is remembered of single weights."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for parameter, memory in optimizer.state.items():
        for kind, value in memory.items():
            of_weights = isinstance(value, Tensor) and value.shape == parameter.shape
            if of_weights and kind != "step":  # which has a scalar parameter's shape, too
                yield kind, names[parameter], value
