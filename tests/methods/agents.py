"""Agents for laws: small networks in float64 on irregular graphs, each with images of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import torch
from tests.analyses import analyze
from torch import Tensor, nn

from dimat.merging.optimizer import Memory
from dimat.methods import RoundContext
from dimat.methods.gauge import GaugeId
from dimat.state import State
from dimat.symmetry import Analysis
from dimat.testing import agents
from dimat.testing.agents import SHAPE, merge
from dimat.topology import Topology, metropolis

__all__ = ["SHAPE", "Agents", "agents_of", "irregular", "merge"]


@dataclass(frozen=True)
class Agents:
    """A model, and agents of it."""

    model: nn.Module
    analysis: Analysis

    @property
    def parameters(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters()]

    def batches(self, agent: int) -> list[Tensor]:
        random = torch.Generator().manual_seed(agent)
        scale = 1 + 0.2 * agent  # no two shards are alike
        return [
            scale * torch.randn(60, *SHAPE, generator=random, dtype=torch.float64) for _ in range(2)
        ]

    def members(
        self,
        states: Sequence[State],
        graph: nx.Graph[int],
        number: int = 1,
        gauges: Mapping[int, GaugeId | None] | None = None,
        memories: Sequence[Memory] | None = None,
    ) -> list[RoundContext]:
        topology = Topology("test", graph, metropolis(graph, np.ones(len(graph))))
        return [
            RoundContext(
                i,
                number,
                s,
                topology,
                self.parameters,
                lambda: self.analysis,
                lambda i=i: self.batches(i),  # type: ignore[misc]
                (gauges or {}).get(i),
                memories[i] if memories else {},
            )
            for i, s in enumerate(states)
        ]

    def perturbed(self, n: int, by: float = 0.1, seed: int = 2) -> list[State]:
        """Neighborhoods of one model: alike, and no two the same."""
        random = torch.Generator().manual_seed(seed)
        base = self.model.state_dict()
        return [
            {
                k: v + by * torch.rand(v.shape, generator=random) if v.is_floating_point() else v
                for k, v in base.items()
            }
            for _ in range(n)
        ]

    def shuffled(self, states: Sequence[State], seed: int = 3) -> list[State]:
        """Each in a unit order of its own."""
        random, symmetry = torch.Generator().manual_seed(seed), self.analysis.symmetry
        return [symmetry.apply(symmetry.random(random), s) for s in states]


def agents_of(name: str) -> Agents:
    own = agents.small_network(name, analyze)
    return Agents(own.model, own.analysis)


def irregular(seed: int, n: int = 6) -> nx.Graph[int]:
    """A random tree with two further edges."""
    return agents.irregular(seed, n).graph
