"""An optimizer's memory in a merge, which moves with the units, is mixed, or is forgotten."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dimat.errors import StructureError, shown
from dimat.merging.mix import mix
from dimat.merging.remembered import MemoryMove, Move, memory_entries, new_memory
from dimat.state import State

_LOG = logging.getLogger("dimat")
_TOLD: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
# The memory of an optimizer: values by kind (momentum_buffer, exp_avg, …) and parameter name.
Memory = Mapping[str, State]


def memory_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, State]:
    """A copy of the momenta and moments of an optimizer, without step counters.

    Args:
        optimizer: The optimizer of the model's parameters; memory of others is left out.
        model: The model, which names the parameters.

    Raises:
        StructureError: If the optimizer has other memory, such as factored moments.
    """
    found: dict[str, State] = {}
    for own in memory_entries(optimizer, model):
        found.setdefault(own.kind, {})[own.name] = own.value.detach().clone()
    return found


def load_memory(optimizer: torch.optim.Optimizer, model: nn.Module, memory: Memory) -> None:
    """Put momenta and moments into an optimizer, whose step counters stay.

    Args:
        optimizer: The optimizer of the model's parameters; changed in place.
        model: The model, which names the parameters.
        memory: As :func:`memory_of` gave it.

    Raises:
        StructureError: If the memory is not of this optimizer's kind; nothing is changed then.
    """
    own = memory_entries(optimizer, model)
    for entry in own:
        given = memory.get(entry.kind, {}).get(entry.name)
        if given is None or given.shape != entry.value.shape:
            found = "missing" if given is None else f"of shape {tuple(given.shape)}"
            raise StructureError(
                f"a memory does not fit {type(optimizer).__name__}: '{entry.kind}' of "
                f"'{entry.name}' is {found}, expected shape {tuple(entry.value.shape)}"
            )
    for entry in own:
        entry.value.copy_(memory[entry.kind][entry.name])


def mix_memory(memories: Sequence[Memory], weights: Sequence[float]) -> dict[str, State]:
    """The weighted average of memories in one unit order.

    Empty ones, of optimizers that never stepped, are left out, and the others count for more. An
    agent whose own memory is empty keeps it so, as there is no step counter to go with another.

    Args:
        memories: Memories; the first is the agent's own.
        weights: One weight per memory, >= 0, summing to 1.

    Raises:
        StructureError: If memories do not fit each other.
    """
    if not memories[0]:
        return {}
    known = [(m, w) for m, w in zip(memories, weights, strict=True) if m]
    for j, (other, _) in enumerate(known[1:], start=1):
        if differ := sorted(other.keys() ^ memories[0].keys()):
            raise StructureError(
                f"memory {j} does not fit: '{differ[0]}' is remembered by one optimizer and not by "
                "the other: give all agents the same kind"
            )
    total = sum(w for _, w in known)
    if total <= 0:  # all weight is on agents that have none
        return {kind: {k: v.clone() for k, v in own.items()} for kind, own in memories[0].items()}
    shares = [w / total for _, w in known]
    return {kind: mix([m[kind] for m, _ in known], shares) for kind in memories[0]}


def flat_memory(memory: Memory) -> State:
    """A memory as one message.

    Args:
        memory: Not changed.
    """
    return {f"{kind}/{name}": v for kind, own in memory.items() for name, v in own.items()}


def nested_memory(message: Mapping[str, Tensor]) -> dict[str, State]:
    """The memory that :func:`flat_memory` was given.

    Args:
        message: As it arrived.

    Raises:
        StructureError: If a key is no ``kind/name``.
    """
    found: dict[str, State] = {}
    for key, value in message.items():
        kind, slash, name = key.partition("/")
        if not slash:
            raise StructureError(
                f"'{shown(key, 100)}' is no entry of an optimizer's memory: write kind/name"
            )
        found.setdefault(kind, {})[name] = value
    return found


def permute_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, move: Move) -> None:
    """Move momenta and moments as their parameters' units move; step counters stay.

    A memory that cannot be moved is forgotten, with a warning, with all other memory of that
    parameter, which is then as in a new optimizer. Memory of parameters outside the model stays.

    Args:
        optimizer: The optimizer of the model's parameters, and maybe of others; changed in place.
        model: The model, which names the parameters.
        move: A function that takes entries by state key and returns them moved, as
            ``Symmetry.apply`` does.

    Raises:
        StructureError: If a memory can be neither moved nor forgotten; nothing is changed then.
    """
    plan_memory(optimizer, model, move).swap()


def plan_memory(optimizer: torch.optim.Optimizer, model: nn.Module, move: Move) -> MemoryMove:
    """The move of an optimizer's memory, ready to be put in place.

    Args:
        optimizer: As :func:`permute_optimizer` takes it; not changed.
        model: As :func:`permute_optimizer` takes it.
        move: As :func:`permute_optimizer` takes it.

    Raises:
        StructureError: If a memory can be neither moved nor forgotten.
    """
    plan = MemoryMove(optimizer, model, move)
    if plan.forgotten and optimizer not in _TOLD:
        _TOLD.add(optimizer)
        names = {own.name for own in plan.forgotten}
        first = plan.forgotten[0]
        _LOG.warning(
            "%s: '%s' of '%s' cannot be moved with the units; what it remembers of %s is "
            "forgotten at every merge in which units move",
            type(optimizer).__name__,
            first.kind,
            first.name,
            f"'{first.name}'" if len(names) == 1 else f"{len(names)} parameters",
        )
    return plan


def reset_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Forget all momenta and moments, as in a new optimizer.

    Args:
        optimizer: Changed in place.
    """
    new = new_memory(optimizer)
    optimizer.state.clear()
    optimizer.state.update(new)
