"""Agents for laws: small networks in float64 on irregular graphs, and agents with a known loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dimat.exchange import Traffic
from dimat.exchange.in_process import run_all
from dimat.merging import recalibrate
from dimat.methods import Method, RoundContext, RoundResult
from dimat.models import build_model
from dimat.state import State
from dimat.symmetry import Analysis, analyze
from dimat.topology import Network, Topology, metropolis

SHAPE = (2, 6, 6)
Vector = NDArray[np.float64]


def irregular(seed: int = 0, n: int = 6) -> Topology:
    """A random tree with two further edges: irregular, whatever the seed."""
    random = np.random.default_rng(seed)
    graph: nx.Graph[int] = nx.empty_graph(n)
    graph.add_edges_from((i, int(random.integers(i))) for i in range(1, n))
    missing = sorted(nx.non_edges(graph))
    picked = random.choice(len(missing), min(2, len(missing)), replace=False)
    graph.add_edges_from(missing[k] for k in picked)
    return Topology("random", graph, metropolis(graph, np.ones(n)))


@dataclass(frozen=True)
class SmallNetwork:
    """A network in float64 of which every unit can be told from the others, and its symmetry.

    Args:
        model: In eval mode.
        analysis: Of it.
    """

    model: nn.Module
    analysis: Analysis

    @property
    def parameters(self) -> list[str]:
        """The names of its parameters."""
        return [name for name, _ in self.model.named_parameters()]

    def state(self) -> State:
        """The network's own state."""
        return dict(self.model.state_dict())

    def perturbed(self, n: int) -> list[State]:
        """States in its neighborhood, no two the same; what counts, counts up."""
        random = torch.Generator().manual_seed(2)
        return [
            {
                k: v + 0.1 * torch.rand(v.shape, generator=random)
                if v.is_floating_point()
                else v + i
                for k, v in self.state().items()
            }
            for i in range(n)
        ]

    def permuted(self, n: int) -> list[State]:
        """The network's own state in n unit orders."""
        random, symmetry = torch.Generator().manual_seed(3), self.analysis.symmetry
        return [symmetry.apply(symmetry.random(random), self.state()) for _ in range(n)]

    def members(self, states: Sequence[State], graph: Topology) -> list[RoundContext]:
        """Agents with these states, in the first round, which is the last."""

        def batches(agent: int) -> list[Tensor]:
            random = torch.Generator().manual_seed(agent)
            return [torch.randn(60, *SHAPE, generator=random, dtype=torch.float64) for _ in "ab"]

        return [
            RoundContext(
                i,
                1,
                state,
                graph,
                self.parameters,
                lambda: self.analysis,
                lambda i=i: batches(i),  # type: ignore[misc]
            )
            for i, state in enumerate(states)
        ]


Analyze = Callable[[nn.Module, tuple[Tensor, ...]], Analysis]


def small_network(name: str, analyze: Analyze = analyze) -> SmallNetwork:
    """A built-in model, so narrow that every law is checked in a second.

    Args:
        name: Of the model.
        analyze: Finds its symmetry.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build_model(name, in_channels=2, num_classes=3, image_size=SHAPE[1:], width=0.15)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # no unit is dead, and none is like another
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
    model.double()
    random = torch.Generator().manual_seed(0)
    recalibrate(model, [torch.randn(100, *SHAPE, generator=random, dtype=torch.float64)])
    return SmallNetwork(model.eval(), analyze(model, (torch.zeros(2, *SHAPE).double(),)))


@cache
def known_network(name: str) -> SmallNetwork:
    """:func:`small_network`, made once."""
    return small_network(name)


def merge(method: Method, them: Sequence[RoundContext]) -> tuple[list[RoundResult], list[Traffic]]:
    """One merge of all agents; what came of it, and what travelled."""
    traffic = [Traffic() for _ in them]
    return run_all([method.merge(me) for me in them], traffic), traffic


D, LR = 3, 0.05


@dataclass
class Quadratic:
    """An agent whose loss is ½ (x - b)ᵀ A (x - b), with its gradient exact: a ``StepContext``."""

    index: int
    curvature: Vector
    minimum: Vector
    x: Vector
    network: Network
    momentum: float = 0.0
    lr: float = LR
    steps: int = 0
    kept: dict[str, State] = field(default_factory=dict)
    velocity: Vector = field(default_factory=lambda: np.zeros(D))

    @property
    def topology(self) -> Topology:
        """The graph and the mixing matrix of this step."""
        return self.network.at(self.steps)

    def state(self) -> State:
        """The agent's place, and a number that is nobody's average."""
        return {"x": torch.from_numpy(self.x.copy()), "count": torch.tensor(self.index)}

    def load(self, state: State) -> None:
        """Take over a state."""
        assert int(state["count"]) == self.index, "what counts is not averaged"
        self.x = state["x"].numpy().copy()

    def gradient(self) -> State:
        """Gradient at its place."""
        return self.gradient_at(self.state())

    def gradient_at(self, state: Mapping[str, Tensor]) -> State:
        """Gradient at another place."""
        return {"x": torch.from_numpy(self.curvature @ (state["x"].numpy() - self.minimum))}

    def update(self, gradient: Mapping[str, Tensor], scale: float = 1.0) -> None:
        """One step of momentum SGD."""
        self.velocity = self.momentum * self.velocity + gradient["x"].numpy()
        self.x = self.x - self.lr * scale * self.velocity

    def scale_momentum(self, factor: float) -> None:
        """Multiply its velocity."""
        self.velocity = factor * self.velocity


def quadratics(network: Network, seed: int = 0, momentum: float = 0.0) -> list[Quadratic]:
    """An agent for each of a network, no two with the same loss."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(network.num_agents):
        root = random.normal(size=(D, D))
        curvature = root @ root.T / D + 0.2 * np.eye(D)
        x, b = random.normal(size=(2, D))
        found.append(Quadratic(i, curvature, b, x, network, momentum))
    return found


def take_steps(method: Method, them: Sequence[Quadratic], steps: int) -> list[Traffic]:
    """Steps of all agents together; what travelled."""
    traffic = [Traffic() for _ in them]
    for _ in range(steps):
        run_all([method.step(me) for me in them], traffic)
        for me in them:
            me.steps += 1
    return traffic


def places(them: Sequence[Quadratic]) -> Vector:
    """Where agents are, one a row."""
    return np.stack([me.x for me in them])
