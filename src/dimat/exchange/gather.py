"""What an observer wants of all agents, and what one agent tells all: talks like any other.

Agent 0 lives in the process that writes the run folder. These talks run on the same transport as
those of the methods, but with counters of their own: watching is no part of a method's traffic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dimat.exchange.protocol import Message, Step, Talk

OBSERVER = 0
_JSON = "/json"  # no state has an entry of this name: modules are not named with a slash


def gather(agent: int, agents: int, message: Message) -> Talk[list[Message]]:
    """Every agent's message, in order, for agent 0; nothing for the others."""
    if agent != OBSERVER:
        yield Step({OBSERVER: message})
        return []
    others = [j for j in range(agents) if j != OBSERVER]
    inbox = yield Step(hear=others)
    return [message, *(inbox[j] for j in others)]


def scatter(agent: int, agents: int, messages: Mapping[int, Message]) -> Talk[Message]:
    """What agent 0 has for each, by agent; the others give nothing."""
    if agent != OBSERVER:
        inbox = yield Step(hear=[OBSERVER])
        return inbox[OBSERVER]
    yield Step({j: messages[j] for j in range(agents) if j != OBSERVER})
    return messages[OBSERVER]


def with_json(value: Any, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A message of tensors and one JSON value."""
    text = json.dumps(value).encode()
    return {**(tensors or {}), _JSON: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def json_of(message: Message) -> tuple[Any, dict[str, Tensor]]:
    """What :func:`with_json` was given: the value, and the tensors."""
    tensors = dict(message)
    return json.loads(bytes(tensors.pop(_JSON).cpu().numpy())), tensors
