"""The protocol of methods: an agent's part in the merge of a round, and in a training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from dimat.exchange import Step, Talk
from dimat.merging.optimizer import Memory
from dimat.methods.gauge import GaugeId
from dimat.state import State
from dimat.symmetry import Analysis, Permutation
from dimat.tasks import CLASSIFICATION, Task
from dimat.text import brief
from dimat.topology import Topology

Need = Literal["rows", "columns", "two-way", "symmetric", "two-neighbors"]


@dataclass(frozen=True)
class RoundContext:
    """The knowledge of an agent when a round begins. Its data stays behind ``batches``.

    Args:
        agent: Number of the agent.
        round: Number of the round, from 1.
        state: Its own state before the merge; not changed.
        topology: The graph and the mixing matrix, of this round: another round may have others.
        parameters: The state keys that are parameters.
        analysis: The symmetry of the model, computed when first asked for.
        batches: Inputs from its own shard, for matching.
        gauge: Whose unit order its state is in; its own if None.
        memory: Its optimizer's memory, where that is mixed too; not changed.
        rounds: Number of rounds of the run; 0 if no round is known to be the last.
        images: Number of its training images.
        kept: States that its method kept at the last merge, by name; empty at first.
        life: Random number of this start of the agent's process, which keeps the ids of unit orders
            of two starts apart; 0 where all agents live and end together.
        task: The task that its model learns.
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
    life: int = 0
    task: Task = CLASSIFICATION

    __repr__ = brief

    @property
    def neighbors(self) -> list[int]:
        """Numbers of the agents that it hears."""
        return self.topology.neighbors(self.agent)

    @property
    def weights(self) -> list[float]:
        """Its row of the mixing matrix: for itself, then for each neighbor."""
        return row(self.topology, self.agent)

    def weights_of(self, heard: Collection[int]) -> list[float]:
        r"""Its row of the mixing matrix where messages were lost: their weight is its own.

        .. math:: \pi_{ii} + \sum_{j \text{ lost}} \pi_{ij}

        Where both ends of an edge lose each other, the matrix stays doubly stochastic if it was.

        Args:
            heard: The neighbors that it heard.

        Returns:
            For itself, then for those it heard, in the order of ``neighbors``; as ``weights`` if
            nobody was lost, and exactly 1 if everybody was.
        """
        own, *others = self.weights
        pairs = list(zip(self.neighbors, others, strict=True))
        lost = [weight for j, weight in pairs if j not in heard]
        if lost and len(lost) == len(pairs):
            return [1.0]
        return [own + math.fsum(lost), *(weight for j, weight in pairs if j in heard)]


def row(topology: Topology, agent: int) -> list[float]:
    """The weights of an agent: for itself, then for each neighbor, in their order."""
    return [float(topology.pi[agent, j]) for j in [agent, *topology.neighbors(agent)]]


@dataclass(frozen=True)
class RoundReport:
    """Telemetry of one agent's merge: nothing that is done next depends on it.

    Args:
        match_s: Seconds spent matching.
        merge_s: Seconds spent combining, and then taking the result over and recalibrating.
        alignments: For each neighbor that was permuted how its units moved before they were mixed.
        similarity: Mean similarity of matched units for each group that was matched.
        margin: Median over units of how much better the match is than the best other, by group, in
            the mean over the neighbors compared with.
    """

    match_s: float = 0.0
    merge_s: float = 0.0
    alignments: Mapping[int, Permutation] = field(default_factory=dict)
    similarity: Mapping[str, float] = field(default_factory=dict)
    margin: Mapping[str, float] = field(default_factory=dict)

    __repr__ = brief


@dataclass(frozen=True)
class RoundResult:
    """The result of one agent's merge: what it takes over.

    Args:
        state: Its merged state.
        permutation: The permutation of its own units, which its optimizer follows; None (or the
            identity) if they stayed.
        disagreement: Weighted distance from its aligned neighbors before the merge; None if the
            state has nothing of others (see :attr:`mixed`).
        gauge: Whose unit order the merged state is in; as before if None.
        memory: The merged optimizer memory; None if it was not mixed.
        calibrated: Whether running statistics are those of the merged model already.
        kept: States that the method wants to find again in the next round, by name.
        report: Telemetry.
    """

    state: State
    permutation: Permutation | None = None
    disagreement: float | None = None
    gauge: GaugeId | None = None
    memory: Memory | None = None
    calibrated: bool = False
    kept: Mapping[str, State] = field(default_factory=dict)
    report: RoundReport = field(default_factory=RoundReport)

    __repr__ = brief

    @property
    def mixed(self) -> bool:
        """Whether the state has something of others, so that a method has to say how far they were.

        Only then is BatchNorm recalibrated, the optimizer reset if that is asked for, and the
        merged agent evaluated.
        """
        return self.disagreement is not None


class StepContext(Protocol):
    """The view that a method has of an agent in one training step."""

    @property
    def index(self) -> int:
        """Number of the agent."""

    @property
    def steps(self) -> int:
        """Training steps since pre-training; the same at all agents of methods in steps."""

    @property
    def topology(self) -> Topology:
        """The graph and the mixing matrix of this step."""

    @property
    def lr(self) -> float:
        """Learning rate of this step."""

    @property
    def kept(self) -> dict[str, State]:
        """States that the method keeps from step to step, by name; the method's to change."""

    def state(self) -> State:
        """A copy of its state."""

    def load(self, state: State) -> None:
        """Replace its state."""

    def gradient(self) -> State:
        """Gradient of the loss on its next batch; updates BatchNorm's running statistics."""

    def gradient_at(self, state: Mapping[str, Tensor]) -> State:
        """Gradient on that same batch at another state; nothing of the agent changes."""

    def update(self, gradient: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """One step of its optimizer along a gradient, at ``scale`` times its learning rate."""

    def scale_momentum(self, factor: float) -> None:
        """Multiply the momenta of its optimizer, if that is momentum SGD."""


def setting(name: str, default: Any, *, equals: object = None) -> Any:
    """A field of a method whose value, in a run, is that of a setting.

    Args:
        name: Of the setting, such as ``consensus.order``.
        default: The field's value where there is no run.
        equals: If given, the field's value is whether the setting's is this.
    """
    return field(default=default, metadata={"setting": name, "equals": equals})


@dataclass(frozen=True)
class Method:
    """A method of learning together. As it stands: every agent learns alone.

    A method overrides ``merge`` and exchanges once a round, or ``step`` and exchanges while it
    trains. It is a frozen dataclass, its fields are its parameters, and all have defaults: one
    made by :func:`setting` has the value of a setting of the run, any other is given in
    ``method_options``. It is stateless: what it needs comes with the :class:`RoundContext`
    or the :class:`StepContext`, and what it wants to find again is ``kept`` there.

    Attributes:
        exchanges: When agents exchange: never, in rounds, or in steps.
        matches: Whether units are permuted, so that the model's symmetry must be known.
        needs: Requirements on the mixing matrix: rows or columns that sum to 1 (both: doubly
            stochastic), edges that carry both ways, that it is symmetric, two neighbors or more of
            every agent.
        tolerant: Whether ``merge`` can be resumed with an inbox that lacks messages: then their
            weight is the agent's own. One that cannot raises ``TrainingError`` for it.
        scope: Of which images an agent learns: its own (agents), or those of all (pooled), and then
            it is the only one.
        merges_once: Whether all merging is done in the last round.
        in_pairs: Whether who meets whom is drawn at random, and an agent meets one at a time.
        keeps: Number of tensors of the parameters' size that an agent keeps beside them, for the
            estimate of memory.
    """

    exchanges: ClassVar[Literal["never", "rounds", "steps"]] = "never"
    matches: ClassVar[bool] = False
    scope: ClassVar[Literal["agents", "pooled"]] = "agents"
    merges_once: ClassVar[bool] = False
    in_pairs: ClassVar[bool] = False
    keeps: ClassVar[int] = 0

    @property
    def needs(self) -> frozenset[Need]:
        """Requirements on the mixing matrix."""
        return frozenset()

    @property
    def combiner(self) -> str:
        """Name of the combiner of aligned states."""
        return "average"

    @property
    def largest_message(self) -> float:
        """The size of its largest message, in states: Adam's memory of one fits, too."""
        return 4.0

    @property
    def own_passes(self) -> int:
        """Forward passes of its own network over its images, of an agent that compares units."""
        return 1

    @property
    def period(self) -> int:
        """Rounds, or training steps, after which the pattern of exchanges repeats."""
        return 1

    @property
    def needs_graph(self) -> bool:
        """Whether it needs the model's exported graph, which a symmetry given by hand lacks."""
        return self.matches

    @property
    def needs_analysis(self) -> bool:
        """Whether it asks for the model's analysis: its symmetry, or its graph."""
        return self.matches or self.needs_graph

    @property
    def tolerant(self) -> bool:
        """Whether its ``merge`` does without messages that are lost."""
        return self.exchanges == "never"

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        """One agent's part when a round begins, before it trains."""
        yield Step()  # a step in which nothing is said: makes this a generator
        return RoundResult(me.state)

    def step(self, me: StepContext) -> Talk[None]:
        """One agent's part in one training step."""
        me.update(me.gradient())
        yield from ()  # makes this a generator

    def check_optimizer(self, method: str, optimizer: str) -> None:
        """Refuse an optimizer of local training that the method cannot work with.

        Args:
            method: Its own name, for the message.
            optimizer: The optimizer's: sgd, msgd, adam or adamw.

        Raises:
            ConfigError: If so.
        """
