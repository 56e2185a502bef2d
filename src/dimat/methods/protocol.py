"""What a method is: what an agent does when a round begins, and how it takes a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from dimat.exchange import Step, Talk
from dimat.matching.gauge import GaugeId
from dimat.merging.optimizer import Memory
from dimat.state import State
from dimat.symmetry import Analysis, Permutation
from dimat.topology import Topology

Need = Literal["rows", "columns", "two-way"]


@dataclass(frozen=True)
class Settings:
    """How a method matches, combines and steps; each reads what concerns it.

    Args:
        gauge: tree (one unit order for all, at once), spread (one that neighbors take over from
            each other) or pairwise (each aligns its neighbors to itself).
        statistics: local, or pooled by the two ends of an edge.
        sweeps: Refinement sweeps when agents come into one gauge, >= 0.
        every: Rounds between matchings of all agents; 0: only those of different gauges match.
        drift: Share of an agent's units in (0, 1] that would rather change places, above which it
            is matched again; None: never.
        combine: Name of a combiner, for what is aligned.
        mix_memory: Whether the optimizers' memories are exchanged and averaged as well.
        order: Of a consensus step: combine (then adapt) or adapt (then combine).
        quiet_steps: Steps without exchange between two of swarm, or two spells of ldsgd, >= 0.
        mixing_steps: Steps with exchange in a spell of ldsgd, >= 1.
        outer_lr: Learning rate of diloco's outer step, > 0.
        outer_momentum: Its momentum, in [0, 1).
        seed: Of what agents have to draw alike, such as who meets whom.
        max_norm_ratio: A neighbor's state whose parameters have a norm more than this many times
            ours, or less than ours divided by it, is refused, >= 1; None: none is.
    """

    gauge: Literal["tree", "spread", "pairwise"] = "tree"
    statistics: Literal["local", "pooled"] = "local"
    sweeps: int = 3
    every: int = 0
    drift: float | None = None
    combine: str = "average"
    mix_memory: bool = False
    order: Literal["combine", "adapt"] = "combine"
    quiet_steps: int = 4
    mixing_steps: int = 1
    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    seed: int = 0
    max_norm_ratio: float | None = None


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
        rounds: The last round.
        images: Its number of training images.
        kept: What its method kept at the last merge; empty at first.
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
    rounds: int = 1
    images: int = 1
    kept: Mapping[str, State] = field(default_factory=dict)

    @property
    def neighbors(self) -> list[int]:
        """The agents it hears."""
        return self.topology.neighbors(self.agent)

    @property
    def weights(self) -> list[float]:
        """Its row of the mixing matrix: for itself, then for each neighbor."""
        return row(self.topology, self.agent)


def row(topology: Topology, agent: int) -> list[float]:
    """What an agent listens to: its weight for itself, then for each neighbor."""
    return [float(topology.pi[agent, j]) for j in [agent, *topology.neighbors(agent)]]


@dataclass(frozen=True)
class Merged:
    """What a round's merge gave an agent.

    Args:
        state: Its merged state.
        permutation: How its own units moved, if they did: its optimizer follows.
        alignments: For each neighbor that was permuted how its units moved before they were mixed.
        disagreement: Weighted distance from its aligned neighbors before the merge (method.md);
            None if it heard nobody: then there is nothing to recalibrate or to measure.
        drift: Share of its units that would rather have changed places; None if not measured.
        match_s: Seconds spent matching.
        merge_s: Seconds spent combining.
        gauge: Whose unit order the merged state is in; as before if None.
        memory: The merged optimizer memory; None if it was not mixed.
        calibrated: Whether running statistics are those of the merged model already.
        kept: What the method wants to find again in the next round, by name.
        similarity: Mean similarity of matched units for each group that was matched.
        margin: How much better they match than the best other unit, in the mean, by group.
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
    kept: Mapping[str, State] = field(default_factory=dict)
    similarity: Mapping[str, float] = field(default_factory=dict)
    margin: Mapping[str, float] = field(default_factory=dict)


class Learner(Protocol):
    """An agent in training, as a method sees it in one step."""

    @property
    def index(self) -> int:
        """Its number."""

    @property
    def steps(self) -> int:
        """Steps taken since pre-training; for methods that exchange in steps alike at all."""

    @property
    def topology(self) -> Topology:
        """The graph and the mixing matrix of this step."""

    @property
    def lr(self) -> float:
        """Learning rate of this step."""

    @property
    def kept(self) -> dict[str, State]:
        """What the method keeps from step to step, by name; the method's to change."""

    def state(self) -> State:
        """A copy of its state."""

    def load(self, state: State) -> None:
        """Take over a state."""

    def gradient(self) -> State:
        """Gradient of the loss at its parameters on its next batch; running statistics follow."""

    def gradient_at(self, state: Mapping[str, Tensor]) -> State:
        """Gradient on that same batch at another state; nothing of the agent changes."""

    def update(self, gradient: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """One step of its optimizer along a gradient, at ``scale`` times its learning rate."""


class Method:
    """One way of learning together. As it stands: every agent alone.

    A method overrides ``merge`` and exchanges once a round, or ``step`` and exchanges while it
    trains. It is stateless: what it needs comes with the member or the learner, and what it wants
    to find again is ``kept`` there.

    Attributes:
        exchanges: When: never, in rounds, or in steps.
        matches: Whether units are permuted, so that the model's symmetry must be known.
        needs: What the mixing matrix must have: rows or columns that sum to 1 (both: doubly
            stochastic), edges that carry both ways.
    """

    exchanges: Literal["never", "rounds", "steps"] = "never"
    matches: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        """What the mixing matrix must have."""
        return frozenset()

    def merge(self, me: Member) -> Talk[Merged]:
        """One agent's part when a round begins, before it trains."""
        yield Step()
        return Merged(me.state)

    def step(self, me: Learner) -> Talk[None]:
        """One agent's part in one training step."""
        me.update(me.gradient())
        yield from ()
