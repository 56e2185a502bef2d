"""What methods say to their neighbors: states, optimizer memories."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from dimat.errors import StructureError
from dimat.exchange import Message, Step, Talk
from dimat.exchange.precision import exact, from_exact
from dimat.merging import StatisticsCombiner, mix
from dimat.merging.optimizer import Memory, flat_memory, mix_memory, nested_memory
from dimat.methods.admit import (
    NORM_RULE,
    Admit,
    norm,
    require_all,
    validate_state,
    validate_structure,
)
from dimat.methods.protocol import RoundContext, StepContext, row
from dimat.state import State, check_finite, check_same_structure, squared_distance
from dimat.symmetry import Permutation
from dimat.topology import Topology


def swap(
    topology: Topology, agent: int, ours: State, what: str = "state", admit: Admit | None = None
) -> Talk[dict[int, State]]:
    """Tell whoever listens to us, hear our neighbors, in the order of ``topology.neighbors``.

    Those whose message was lost are left out.

    Args:
        topology: Who talks to whom.
        agent: Our number.
        ours: What we say, and the structure of what we expect to hear.
        what: What that is, for messages of errors.
        admit: What we can use; all that is of the structure of ``ours`` if None.
    """
    neighbors, told = topology.neighbors(agent), dict.fromkeys(topology.listeners(agent), ours)
    inbox = yield Step(told, neighbors, admit or validate_structure(ours, what))
    return {j: dict(inbox[j]) for j in neighbors if j in inbox}


def swap_states(me: RoundContext, max_norm_ratio: float | None = None) -> Talk[dict[int, State]]:
    """Tell our state, hear our neighbors', in the order of ``me.neighbors``; some may be lost."""
    admit = validate_state(me, max_norm_ratio)
    return (yield from swap(me.topology, me.agent, me.state, admit=admit))


def combined(me: StepContext, ours: State, what: str = "state") -> Talk[State]:
    """The weighted average of what we and all our neighbors say in this step.

    Raises:
        TrainingError: If a message that is needed is lost.
    """
    theirs = yield from swap(me.topology, me.index, ours, what)
    require_all(me.topology.neighbors(me.index), theirs)
    return mix([ours, *theirs.values()], row(me.topology, me.index))


def swap_memories(
    me: RoundContext,
    heard: Collection[int],
    moves: Mapping[int, Permutation],
    max_norm_ratio: float | None = None,
) -> Talk[dict[str, State]]:
    """The weighted mean of optimizer memories, each moved as its agent's units are.

    Args:
        me: Who we are.
        heard: Those whose states we know: others may move in a way that we do not know.
        moves: For those whose units move, ourselves among them, how they do.
        max_norm_ratio: How many times as large as ours, or as our parameters, another memory may
            be; None: any. How small does not matter: who has learned its shard remembers little.
    """
    own = flat_memory(me.memory)
    told = dict.fromkeys(me.topology.listeners(me.agent), own)
    inbox = yield Step(told, me.neighbors, _remembering(me, own, max_norm_ratio))
    known = [j for j in me.neighbors if j in heard and j in inbox]
    theirs = {j: nested_memory(inbox[j]) if own else {} for j in known}
    memories = [_moved(me, me.memory, moves.get(me.agent))]
    memories += [_moved(me, memory, moves.get(j)) for j, memory in theirs.items()]
    return mix_memory(memories, me.weights_of(known))


def swap_statistics(
    me: RoundContext, combiner: StatisticsCombiner, ours: State, max_norm_ratio: float | None
) -> Talk[dict[int, State]]:
    """The statistics of our neighbors, as their agents have them, in return for ours.

    Not rounded on the way, whatever the precision of messages: they would be no moments any more.

    Args:
        me: Who we are.
        combiner: The combiner that they are for.
        ours: Our own.
        max_norm_ratio: Its square is how many times as large as ours the mean squares may be; None:
            any. How small does not matter: who has small ones has little say.
    """
    said, size = exact(ours), norm(ours, list(ours))

    def admit(j: int, message: Message) -> None:
        who = f"statistics from agent {j}"
        check_same_structure(said, message, who)
        theirs = from_exact(message)
        combiner.check(theirs, who)
        most = None if max_norm_ratio is None else max_norm_ratio**2
        found = norm(theirs, list(theirs))
        if most is not None and found > size * most:
            raise StructureError(
                f"{who} are out of proportion, as if one of us diverged: their norm is "
                f"{found:.4g}, ours {size:.4g}: {NORM_RULE.format(most * size)}"
            )

    told = dict.fromkeys(me.topology.listeners(me.agent), said)
    inbox = yield Step(told, me.neighbors, admit)
    return {j: dict(from_exact(inbox[j])) for j in me.neighbors if j in inbox}


def _remembering(me: RoundContext, own: State, max_norm_ratio: float | None) -> Admit:
    """Refuses a memory that does not fit ours; who has none yet says nothing, which is allowed."""

    def admit(j: int, message: Message) -> None:
        if not (own and message):
            return
        who = f"optimizer memory from agent {j}"
        validate_structure(own, "optimizer memory")(j, message)
        check_finite(message, who)
        if max_norm_ratio is None:
            return
        theirs = norm(message, list(own))
        most = max_norm_ratio * max(norm(own, list(own)), norm(me.state, me.parameters))
        if theirs > most:
            raise StructureError(f"{who} has norm {theirs:.4g}: {NORM_RULE.format(most)}")

    return admit


def _moved(me: RoundContext, memory: Memory, move: Permutation | None) -> Memory:
    if move is None:
        return memory
    symmetry = me.analysis().symmetry
    return {kind: symmetry.apply(move, entries) for kind, entries in memory.items()}


def distance_from(
    me: RoundContext, ours: Mapping[str, Tensor], aligned: Mapping[int, Mapping[str, Tensor]]
) -> float | None:
    r"""Root of :math:`\sum_j \pi_{ij}\lVert\theta_i - P_{ij}\theta_j\rVert^2` over those heard.

    None if nobody was: then nothing is mixed, and there is nothing to recalibrate.
    """
    if not aligned:
        return None
    return math.sqrt(
        math.fsum(
            weight * squared_distance(ours, theirs, me.parameters)
            for weight, theirs in zip(me.weights_of(aligned)[1:], aligned.values(), strict=True)
        )
    )


def distance(ours: State, other: State, parameters: Sequence[str]) -> float:
    """Euclidean distance of two states' parameters."""
    return math.sqrt(squared_distance(ours, other, parameters))
