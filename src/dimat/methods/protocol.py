"""What a method is: one agent's part of a round, written as a conversation with its neighbors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from dimat.exchange import Talk
from dimat.matching.gauge import GaugeId
from dimat.merging.optimizer import Memory
from dimat.state import State
from dimat.symmetry import Analysis, Permutation
from dimat.topology import Topology


@dataclass(frozen=True)
class Settings:
    """How a method matches and merges; each reads what concerns it.

    Args:
        gauge: tree (one unit order for all) or pairwise (each aligns its neighbors to itself).
        statistics: local, or pooled by the two ends of an edge.
        sweeps: Refinement sweeps when agents come into one gauge, >= 0.
        every: Rounds between matchings of all agents; 0: only those of different gauges match.
        drift: Share of an agent's units in (0, 1] that would rather change places, above which it
            is matched again; None: never.
        combine: Name of a combiner, for what is aligned.
        mix_memory: Whether the optimizers' memories are exchanged and averaged as well.
    """

    gauge: Literal["tree", "pairwise"] = "tree"
    statistics: Literal["local", "pooled"] = "local"
    sweeps: int = 3
    every: int = 0
    drift: float | None = None
    combine: str = "average"
    mix_memory: bool = False


@dataclass(frozen=True)
class Member:
    """All that an agent knows when a round begins. Its data stays behind ``batches``.

    Args:
        agent: Its number.
        round: The round, from 1.
        state: Its own state before the merge; not changed.
        topology: The graph and the mixing matrix, of this round: another round may have others.
        parameters: The state keys that are parameters.
        analysis: The symmetry of the model, computed when first asked for.
        batches: Inputs from its own shard, for matching.
        gauge: Whose unit order its state is in; its own if None.
        memory: Its optimizer's memory, where that is mixed too; not changed.
    """

    agent: int
    round: int
    state: State
    topology: Topology
    parameters: Sequence[str]
    analysis: Callable[[], Analysis]
    batches: Callable[[], Sequence[Tensor]]
    gauge: GaugeId | None = None
    memory: Memory = field(default_factory=dict)

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
        alignments: For each neighbor that was permuted how its units moved before they were mixed.
        disagreement: Weighted distance from its aligned neighbors before the merge (method.md);
            None if it heard nobody.
        drift: Share of its units that would rather have changed places; None if not measured.
        match_s: Seconds spent matching.
        merge_s: Seconds spent combining.
        gauge: Whose unit order the merged state is in; as before if None.
        memory: The merged optimizer memory; None if it was not mixed.
        calibrated: Whether running statistics are those of the merged model already.
    """

    state: State
    permutation: Permutation | None = None
    alignments: Mapping[int, Permutation] = field(default_factory=dict)
    disagreement: float | None = None
    drift: float | None = None
    match_s: float = 0.0
    merge_s: float = 0.0
    gauge: GaugeId | None = None
    memory: Memory | None = None
    calibrated: bool = False


class Method(Protocol):
    """One way of merging. Stateless: everything it needs comes with the member."""

    def merge(self, me: Member) -> Talk[Merged]:
        """One agent's part of one round."""
        ...
