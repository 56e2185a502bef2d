"""The layers that read units, and how differently two networks read the same ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.analyses import analyze
from tests.methods.agents import agents_of
from torch import Tensor, nn

from dimat.merging.layerwise.readouts import readout_distance, readouts
from dimat.state import state_of


class TwoHeads(nn.Module):
    """A shared trunk, and two outputs of it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())
        self.first, self.second = nn.Linear(5, 3), nn.Linear(5, 2, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.first(features), self.second(features)


def upsampling() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.ConvTranspose2d(5, 3, 2))


MODELS: list[tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = [
    (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), (4,), ["2.weight"]),
    (TwoHeads, (4,), ["first.weight", "second.weight"]),
    (upsampling, (2, 6, 6), ["2.weight"]),
    (lambda: nn.Linear(4, 3), (4,), []),  # it has no units
]


@pytest.mark.parametrize(("make", "shape", "keys"), MODELS)
def test_a_readout_reads_units_and_gives_outputs(
    make: Callable[[], nn.Module], shape: tuple[int, ...], keys: list[str]
) -> None:
    model = make().eval()
    x = torch.randn(5, *shape)
    found = readouts(analyze(model, (x,)), state_of(model))
    assert [site.weight for site in found] == keys
    distance = readout_distance(
        analyze(model, (x,)), state_of(model), [state_of(model)], [1.0], [x]
    )
    assert distance == (0.0 if keys else None)


def test_the_distance_is_that_of_outputs_on_a_network_s_own_units() -> None:
    """By NumPy."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    batches = [torch.randn(n, 4).double() for n in (7, 2)]
    analysis = analyze(model, (batches[0],))
    own, *others = ({k: torch.randn_like(v) for k, v in state_of(model).items()} for _ in range(3))
    weights, expected = [0.5, 0.2], 0.0
    units = np.maximum((torch.cat(batches) @ own["0.weight"].T + own["0.bias"]).numpy(), 0)
    for weight, other in zip(weights, others, strict=True):
        matrix = (other["2.weight"] - own["2.weight"]).numpy()
        difference = units @ matrix.T + (other["2.bias"] - own["2.bias"]).numpy()
        expected += weight * np.square(difference).sum()
    assert readout_distance(analysis, own, others, weights, batches) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_distance_is_the_same_in_any_unit_order_that_all_are_in(name: str) -> None:
    agents = agents_of(name)
    states, symmetry = agents.perturbed(3, by=1.0), agents.analysis.symmetry
    move = symmetry.random(torch.Generator().manual_seed(0))
    found = [
        readout_distance(agents.analysis, own, others, [0.3, 0.7], agents.batches(0))
        for own, *others in (states, [symmetry.apply(move, s) for s in states])
    ]
    assert found[0] is not None
    assert found[0] == pytest.approx(found[1])
    assert found[0] > 1e-3
