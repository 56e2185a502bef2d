"""Agent 0 as a server: what methods that are no decentralized ones are compared by."""

from __future__ import annotations

import torch

from dimat.errors import StructureError
from dimat.exchange import Message, Step, Talk
from dimat.merging import mix
from dimat.methods.admit import require_inbox
from dimat.methods.protocol import RoundContext
from dimat.state import State, check_same_structure

HUB = 0
_IMAGES = "/images"  # no state has an entry of this name: modules are not named with a slash


def mean_of_all(me: RoundContext, *, weighted: bool) -> Talk[State]:
    """The mean of all agents' states, formed by agent 0 and sent to everyone.

    Whatever the graph: 2 (N - 1) states travel, as many as in an all-reduce around a ring.

    Args:
        me: Who we are.
        weighted: Whether agents count by their numbers of training images.

    Raises:
        StructureError: If a message does not fit.
        TrainingError: If one is lost.
    """
    if me.agent != HUB:
        count = torch.tensor([me.images if weighted else 1], dtype=torch.int64)
        inbox = yield from require_inbox(Step({HUB: {**me.state, _IMAGES: count}}, [HUB]))
        check_same_structure(me.state, inbox[HUB], f"state from agent {HUB}")
        return dict(inbox[HUB])
    others = [j for j in range(me.topology.num_agents) if j != HUB]
    inbox = yield from require_inbox(Step(hear=others))
    states, counts = [me.state], [me.images if weighted else 1]
    for j in others:
        states.append({key: value for key, value in inbox[j].items() if key != _IMAGES})
        check_same_structure(me.state, states[-1], f"state from agent {j}")
        counts.append(_count(inbox[j], j))
    mean = mix(states, [count / sum(counts) for count in counts])
    yield Step(dict.fromkeys(others, mean))
    return mean


def _count(message: Message, other: int) -> int:
    value = message.get(_IMAGES)
    if value is None or value.shape != (1,) or value.dtype != torch.int64 or int(value) < 1:
        raise StructureError(
            f"state from agent {other} does not fit: '{_IMAGES}' must be one whole number >= 1"
        )
    return int(value)
