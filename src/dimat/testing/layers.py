"""Small networks for matchers and combiners, and states of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dimat.models import build_model
from dimat.state import State, state_of
from dimat.symmetry import Analysis, analyze

SHAPES = {"plain": (5,), "cnn": (3, 8, 8)}


@dataclass(frozen=True)
class SmallModel:
    """A network, its symmetry, and inputs.

    Args:
        model: In eval mode.
        analysis: Of it.
        batches: Inputs.
    """

    model: nn.Module
    analysis: Analysis
    batches: list[Tensor]

    def states(self, count: int, seed: int = 1) -> list[State]:
        """States at random places, with running statistics as they are."""
        random = torch.Generator().manual_seed(seed)
        return [
            {
                k: v + 0.3 * torch.randn(v.shape, generator=random, dtype=v.dtype)
                if v.is_floating_point() and "running_" not in k
                else v.clone()
                for k, v in state_of(self.model).items()
            }
            for _ in range(count)
        ]

    def copy(self, state: Mapping[str, Tensor], seed: int = 2) -> State:
        """A state with its units at random places."""
        symmetry = self.analysis.symmetry
        return symmetry.apply(symmetry.random(torch.Generator().manual_seed(seed)), state)

    def outputs(self, state: Mapping[str, Tensor]) -> Tensor:
        """What a state computes."""
        with torch.no_grad():
            found: Tensor = functional_call(self.model, dict(state), (self.batches[0],))
        return found


@cache
def example(name: str) -> SmallModel:
    """The network of that name, one of SHAPES."""
    shape = SHAPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(
            nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)
        )
        if name == "cnn":
            model = build_model("cnn", in_channels=3, num_classes=3, image_size=(8, 8), width=0.15)
    model.double().eval()
    random = torch.Generator().manual_seed(3)
    batches = [torch.randn(40, *shape, generator=random).double() for _ in range(3)]
    return SmallModel(model, analyze(model, (batches[0][:2],)), batches)
