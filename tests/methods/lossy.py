"""Messages that are lost, and messages that are refused: a link that drops them and goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dimat.errors import StructureError
from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.methods import Method, RoundContext, RoundResult

Result = TypeVar("Result")


@dataclass
class Losses:
    """What happens to the message of (sender, listener, step of the talk).

    Args:
        lost: Whether it never arrives.
        spoilt: What arrives in its place.
        refused: The listener, the sender and why, of messages that were not admitted.
    """

    lost: Callable[[int, int, int], bool] = lambda sender, to, step: False
    spoilt: Callable[[int, int, int, Message], Message] = lambda sender, to, step, m: m
    refused: list[tuple[int, int, str]] = field(default_factory=list)

    def on(self, agent: int, talk: Talk[Result]) -> Talk[Result]:
        """One agent's talk over such links."""
        try:
            step, k = next(talk), 0
            while True:
                inbox = yield Step(step.send, step.hear)
                step, k = talk.send(self._heard(agent, k, step, inbox)), k + 1
        except StopIteration as stop:
            result: Result = stop.value
            return result

    def _heard(self, agent: int, k: int, step: Step, inbox: object) -> dict[int, Message]:
        heard = {}
        assert isinstance(inbox, dict)
        for j, message in inbox.items():
            if self.lost(j, agent, k):
                continue
            found = self.spoilt(j, agent, k, message)
            try:
                if step.admit is not None:
                    step.admit(j, found)
            except StructureError as error:
                self.refused.append((agent, j, str(error)))
                continue
            heard[j] = found
        return heard


def merge_over(losses: Losses, method: Method, them: Sequence[RoundContext]) -> list[RoundResult]:
    """One merge of all agents over such links."""
    talks = [losses.on(me.agent, method.merge(me)) for me in them]
    return run_all(talks, [Traffic() for _ in them])
