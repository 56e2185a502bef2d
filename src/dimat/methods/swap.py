"""What methods say to their neighbors: states, optimizer memories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from dimat.exchange import Step, Talk
from dimat.merging import mix
from dimat.merging.optimizer import Memory, flat_memory, mix_memory, nested_memory
from dimat.methods.protocol import Learner, Member, row
from dimat.state import State, check_same_structure, squared_distance
from dimat.symmetry import Permutation
from dimat.topology import Topology


def swap(
    topology: Topology, agent: int, ours: State, what: str = "state"
) -> Talk[dict[int, State]]:
    """Tell whoever listens to us, hear our neighbors, in the order of ``topology.neighbors``.

    Args:
        topology: Who talks to whom.
        agent: Our number.
        ours: What we say, and the structure of what we expect to hear.
        what: What that is, for messages of errors.

    Raises:
        StructureError: If what a neighbor says does not fit.
    """
    neighbors = topology.neighbors(agent)
    inbox = yield Step(dict.fromkeys(topology.listeners(agent), ours), neighbors)
    for j in neighbors:
        check_same_structure(ours, inbox[j], f"{what} from agent {j}")
    return {j: dict(inbox[j]) for j in neighbors}


def swap_states(me: Member) -> Talk[dict[int, State]]:
    """Tell our state, hear our neighbors', in the order of ``me.neighbors``."""
    return (yield from swap(me.topology, me.agent, me.state))


def combined(me: Learner, ours: State, what: str = "state") -> Talk[State]:
    """The weighted average of what we and our neighbors say in this step."""
    theirs = yield from swap(me.topology, me.index, ours, what)
    return mix([ours, *theirs.values()], row(me.topology, me.index))


def swap_memories(me: Member, moves: Mapping[int, Permutation]) -> Talk[dict[str, State]]:
    """The weighted mean of all optimizer memories, each moved as its agent's units are.

    Args:
        me: Who we are.
        moves: For those whose units move, ourselves among them, how they do.
    """
    own = flat_memory(me.memory)
    inbox = yield Step(dict.fromkeys(me.topology.listeners(me.agent), own), me.neighbors)
    memories = [_moved(me, me.memory, moves.get(me.agent))]
    for j in me.neighbors:
        memory = _checked(own, inbox[j], f"optimizer memory from agent {j}")
        memories.append(_moved(me, memory, moves.get(j)))
    return mix_memory(memories, me.weights)


def _checked(own: Mapping[str, Tensor], message: Mapping[str, Tensor], who: str) -> Memory:
    """A neighbor's memory; nothing, where one of us has none yet."""
    if not own or not message:
        return {}
    check_same_structure(own, message, who)
    return nested_memory(message)


def _moved(me: Member, memory: Memory, move: Permutation | None) -> Memory:
    if move is None:
        return memory
    symmetry = me.analysis().symmetry
    return {kind: symmetry.apply(move, entries) for kind, entries in memory.items()}


def distance_from(
    me: Member, ours: Mapping[str, Tensor], aligned: Sequence[Mapping[str, Tensor]]
) -> float | None:
    r"""Root of :math:`\sum_j \pi_{ij}\lVert\theta_i - P_{ij}\theta_j\rVert^2`, or None if alone."""
    if not aligned:
        return None
    return math.sqrt(
        math.fsum(
            weight * squared_distance(ours, theirs, me.parameters)
            for weight, theirs in zip(me.weights[1:], aligned, strict=True)
        )
    )


def distance(ours: State, other: State, parameters: Sequence[str]) -> float:
    """Euclidean distance of two states' parameters."""
    return math.sqrt(squared_distance(ours, other, parameters))
