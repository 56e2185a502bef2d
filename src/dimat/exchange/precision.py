"""Messages in half precision: float32 travels as bfloat16, and is float32 again on arrival."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor

from dimat.exchange.protocol import Message, Step, Talk

Result = TypeVar("Result")
_MARK = "/bfloat16/"  # no state has an entry of this name: modules are not named with a slash


def in_bfloat16(talk: Talk[Result]) -> Talk[Result]:
    """A talk with every float32 entry of its messages sent as bfloat16.

    Rounding changes a number by up to 1 part in 256. An agent's own state is never rounded, only
    what it hears. Both ends of an edge must do so. Entries of other types, a bfloat16 of the
    model's own among them, travel as they are, and so do messages made by :func:`exact`.

    Args:
        talk: Any talk; it need not know of its precision.
    """
    try:
        step = next(talk)
        while True:
            inbox = yield Step(_narrowed(step.send), step.hear, _admitting(step))
            step = talk.send({j: widened(message) for j, message in inbox.items()})
    except StopIteration as stop:
        result: Result = stop.value
        return result


def in_precision(talk: Talk[Result], precision: Literal["float32", "bfloat16"]) -> Talk[Result]:
    """A talk whose messages travel in a precision.

    Args:
        talk: The talk.
        precision: float32, which leaves the talk as it is, or bfloat16.
    """
    return in_bfloat16(talk) if precision == "bfloat16" else talk


def narrowed(message: Message) -> dict[str, Tensor]:
    """A message with its float32 entries as bfloat16, under marked names.

    Args:
        message: Not changed.
    """
    return {
        f"{_MARK}{key}" if value.dtype == torch.float32 else key: value.to(torch.bfloat16)
        if value.dtype == torch.float32
        else value
        for key, value in message.items()
    }


def widened(message: Message) -> dict[str, Tensor]:
    """The rounded message that :func:`narrowed` was given.

    Args:
        message: As it arrived; a marked entry of another type than bfloat16 keeps its mark.
    """
    found = {}
    for key, value in message.items():
        marked = key.startswith(_MARK) and value.dtype == torch.bfloat16
        found[key.removeprefix(_MARK) if marked else key] = value.float() if marked else value
    return found


def exact(message: Message) -> dict[str, Tensor]:
    """A message that no precision changes: the bits of float32 entries, as integers.

    Args:
        message: Without entries of 32-bit integers.
    """
    return {
        key: value.view(torch.int32) if value.dtype == torch.float32 else value
        for key, value in message.items()
    }


def from_exact(message: Message) -> dict[str, Tensor]:
    """The message that :func:`exact` was given.

    Args:
        message: As it arrived.
    """
    return {
        key: value.view(torch.float32) if value.dtype == torch.int32 else value
        for key, value in message.items()
    }


def _narrowed(send: Mapping[int, Message]) -> dict[int, Message]:
    """Narrowed messages by listener; one object for several listeners stays one object."""
    once = {id(message): narrowed(message) for message in send.values()}
    return {to: once[id(message)] for to, message in send.items()}


def _admitting(step: Step) -> Callable[[int, Message], None] | None:
    """The step with an admission check that widens a message before the talk looks at it."""
    admit = step.admit
    return None if admit is None else lambda j, message: admit(j, widened(message))
