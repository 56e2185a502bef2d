"""Stand-ins of agents in a dry run: to a method they are agents, and they train nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dimat.exchange import Traffic
from dimat.experiment.setup import Setup
from dimat.merging.optimizer import nested_memory
from dimat.methods import RoundContext, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.state import State, state_of
from dimat.tools.estimate.model_cost import memory_entries
from dimat.topology import Topology

_IMAGES = 16  # of each, to match on: of few, more units are alike, and that takes long


@dataclass
class StandIn:
    """An agent with random images and its parameters in place of gradients.

    Args:
        index: Number of the agent.
        setup: Setup of the run, for its settings and its graph.
        network: Setup of its network, which may be narrower than the run's.
        traffic: Counters of the bytes of one round or step.
        steps: Training steps since pre-training.
        answers: Number of gradients that it computed for others.
        gauge: Id of the unit order that its state is in.
        kept: States that its method keeps, by name.
    """

    index: int
    setup: Setup
    network: Setup
    traffic: Traffic = field(default_factory=Traffic)
    steps: int = 0
    answers: int = 0
    gauge: GaugeId | None = None
    kept: dict[str, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model = self.network.new_model(0)  # of one state all: matching is soon done then
        wanted = {name for name, p in model.named_parameters() if p.requires_grad}
        self._state = state_of(model, self.network.exchanged)
        self._parameters = [name for name, _ in model.named_parameters() if name in self._state]
        self._gradient = {k: v for k, v in self._state.items() if k in wanted}

    # --- in a round ---------------------------------------------------------------------------

    def context(self, number: int) -> RoundContext:
        """The state, graph, images and memory that the stand-in brings to the merge of a round."""
        config = self.setup.config
        own, stepped = config.optimizer, config.pretrain_epochs > 0 or number > 1
        mixed = own.on_merge == "mix" and stepped
        return RoundContext(
            agent=self.index,
            round=number,
            state=self.state(),
            topology=self.setup.topology.at(number - 1),
            parameters=self._parameters,
            analysis=lambda: self.network.analysis,
            batches=lambda: [self._images()],
            gauge=self.gauge,
            memory=nested_memory(memory_entries(own.name, self._gradient)) if mixed else {},
            rounds=config.rounds,
            kept=self.kept,
            task=self.setup.task,
        )

    def take_over(self, me: RoundContext, result: RoundResult) -> float:
        """Load the merged state, and keep what the method keeps; there is no optimizer."""
        self.load(result.state)
        self.gauge = result.gauge or self.gauge
        self.kept = {name: dict(own) for name, own in result.kept.items()}
        return 0.0

    def _images(self) -> Tensor:
        data, random = self.network.dataset, torch.Generator().manual_seed(self.index)
        if data.num_tokens:
            shape = (_IMAGES, *data.input_shape)
            return torch.randint(data.num_tokens, shape, generator=random)
        return torch.randn(_IMAGES, *data.input_shape, generator=random)

    # --- in a step ----------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        """The graph and the mixing matrix of this step."""
        return self.setup.topology.at(self.steps)

    @property
    def lr(self) -> float:
        """The first learning rate."""
        return self.setup.config.optimizer.lr

    def state(self) -> State:
        """The state itself, not a copy: methods change none in place."""
        return dict(self._state)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the state."""
        self._state = dict(state)

    def gradient(self) -> State:
        """Parameters, which have the structure of a gradient."""
        return dict(self._gradient)

    def gradient_at(self, state: Mapping[str, Tensor]) -> State:
        """Parameters, counted as a gradient that was computed for another agent."""
        self.answers += 1
        return self.gradient()

    def update(self, gradient: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """Do nothing: a stand-in does not learn."""

    def scale_momentum(self, factor: float) -> None:
        """Do nothing: a stand-in has no optimizer."""
