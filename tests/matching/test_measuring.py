"""Measuring the activations of several models: the same moments however many, and little memory."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
import torch
from benchmarks.live_bytes import LiveBytes, peak_bytes
from torch import Tensor

from dimat.graph.interpreter import PartialInterpreter
from dimat.matching import Activations, Problem
from dimat.matching.unit_activations import ActivationRecorder, observations
from dimat.models import build_model
from dimat.state import State, num_bytes, state_of
from dimat.symmetry import Analysis, analyze


@pytest.fixture(scope="module")
def given() -> tuple[Analysis, list[State], list[Tensor]]:
    states = []
    for seed in range(5):
        torch.manual_seed(seed)
        model = build_model("vgg11", in_channels=3, num_classes=4, image_size=(32, 32), width=0.25)
        states.append(state_of(model.eval()))
    random = torch.Generator().manual_seed(0)
    batches = [torch.randn(64, 3, 32, 32, generator=random) for _ in range(3)]
    return analyze(model, (batches[0][:2],)), states, batches


@pytest.mark.parametrize(
    "pairs",
    [
        [(0, 1), (0, 2), (0, 3)],
        [(3, 0), (1, 0), (2, 0)],
        [(3, 1), (0, 2), (4, 1), (1, 2)],
        [*permutations(range(3), 2)],
    ],
)
def test_every_pair_has_the_moments_that_it_has_alone(
    given: tuple[Analysis, list[State], list[Tensor]], pairs: list[tuple[int, int]]
) -> None:
    analysis, states, batches = given
    found = Activations().measure(analysis, states, iter(pairs), iter(batches))
    assert list(found) == pairs
    for (i, j), own in found.items():
        both = [states[i], states[j]]
        alone = Activations().measure(analysis, both, [(0, 1)], batches)[0, 1]
        assert list(own) == list(alone)
        for key, moments in own.items():
            for name, value in alone[key].tensors().items():
                assert torch.equal(moments.tensors()[name], value), (key, name)


def test_matching_holds_the_activations_of_one_model_however_many_there_are(
    given: tuple[Analysis, list[State], list[Tensor]],
) -> None:
    """Every further model adds C x C moments, at most a tenth of a state, and no activations."""
    analysis, states, batches = given
    places = observations(analysis)
    sizes = {group.name: group.cells * group.size for group in analysis.symmetry.groups}
    moments = sum(8 * (sizes[o.group] ** 2 + 4 * sizes[o.group]) for o in places)

    def peak(count: int) -> int:
        own = Problem(analysis, states[:count], [1 / count] * count, batches)
        return peak_bytes(lambda: Activations().match(own))

    peaks = [peak(count) for count in (2, 3, 4, 5)]
    tenth = num_bytes(states[0]) / 10
    assert all(b - a <= moments + tenth for a, b in pairwise(peaks))

    *_, last = analysis.trace.graph.nodes
    alone = peak_bytes(
        lambda: PartialInterpreter(analysis.trace, states[0], batches[0]).advance(last)
    )
    seen = dict(ActivationRecorder(analysis.trace, places, 16).each(states[0], batches[0]))
    held = sum(4 * x.numel() for x in seen.values())
    largest = max(4 * x.numel() for x in seen.values())
    assert peaks[0] <= alone + held + 4 * largest + moments + tenth


def test_no_activation_outlives_its_batch(
    given: tuple[Analysis, list[State], list[Tensor]],
) -> None:
    analysis, states, batches = given
    sizes = {group.name: group.cells * group.size for group in analysis.symmetry.groups}
    moments = sum(8 * (sizes[o.group] ** 2 + 5 * sizes[o.group]) for o in observations(analysis))

    def peak(count: int) -> int:
        pairs = [(0, 1)]
        return peak_bytes(
            lambda: Activations().measure(analysis, states[:2], pairs, batches[:count])
        )

    assert peak(3) <= peak(1) + moments


def test_bytes_that_are_alive_are_counted_once_and_only_while_they_are() -> None:
    with LiveBytes() as live:
        a = torch.zeros(1000, dtype=torch.float64)
        b = a.view(10, 100) + 1
        a += 1
        del a
        c = b.T[:5] * 2
        assert live.peak == 16_000
        assert c.numel() == 50
    with LiveBytes() as live:
        for _ in range(5):
            b = torch.zeros(1000)
            del b
    assert live.peak == 4_000
