"""What a method is: one agent's part of a round, written as a conversation with its neighbors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dimat.exchange import Talk
from dimat.state import State
from dimat.symmetry import Analysis, Permutation
from dimat.topology import Topology


@dataclass(frozen=True)
class Member:
    """All that an agent knows when a round begins. Its data stays behind ``batches``.

    Args:
        agent: Its number.
        round: The round, from 1.
        state: Its own state before the merge; not changed.
        topology: The graph and the mixing matrix.
        parameters: The state keys that are parameters.
        analysis: The symmetry of the model, computed when first asked for.
        batches: Inputs from its own shard, for matching.
    """

    agent: int
    round: int
    state: State
    topology: Topology
    parameters: Sequence[str]
    analysis: Callable[[], Analysis]
    batches: Callable[[], Sequence[Tensor]]

    @property
    def neighbors(self) -> list[int]:
        """The agents it talks to."""
        return self.topology.neighbors(self.agent)

    @property
    def weights(self) -> list[float]:
        """Its row of the mixing matrix: for itself, then for each neighbor."""
        row = self.topology.pi[self.agent]
        return [float(row[j]) for j in [self.agent, *self.neighbors]]


@dataclass(frozen=True)
class Merged:
    """What a round's merge gave an agent.

    Args:
        state: Its merged state.
        permutation: How its own units moved, if they did: its optimizer follows.
        disagreement: Weighted distance from its aligned neighbors before the merge (method.md);
            None if it heard nobody.
        match_s: Seconds spent matching.
        similarity: Mean similarity of matched units per group; empty if nothing was matched.
    """

    state: State
    permutation: Permutation | None = None
    disagreement: float | None = None
    match_s: float = 0.0
    similarity: Mapping[str, float] | None = None


class Method(Protocol):
    """One way of merging. Stateless: everything it needs comes with the member."""

    def merge(self, me: Member) -> Talk[Merged]:
        """One agent's part of one round."""
        ...
