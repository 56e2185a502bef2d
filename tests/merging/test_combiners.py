"""One conformance suite over all combiners, and what repair and expected statistics promise."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.merging.test_regression import MODELS, analysis_of, drawn, inputs, small
from tests.tiers import tiers
from torch import Tensor, nn
from torch.func import functional_call

from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import trace
from dimat.merging import COMBINERS, Combiner, mix, predicted_statistics
from dimat.merging.layerwise.norms import channel_moments
from dimat.merging.layerwise.sites import sites
from dimat.state import State


@pytest.fixture(params=list(COMBINERS))
def combiner(request: pytest.FixtureRequest) -> Combiner:
    return COMBINERS[request.param]


@pytest.fixture(params=["mlp", "cnn", "group-norm-alone"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    built: nn.Module = MODELS[request.param]()
    return built.double().eval()


def calibrated(model: nn.Module, state: State, batches: list[Tensor]) -> State:
    """The state with BatchNorm statistics of these batches, as trained networks have them."""
    found = dict(state)
    t = trace(model, (batches[0][:2],))
    runs = [PartialInterpreter(t, found, x) for x in batches]
    for site in sites(t, sums=False):
        if site.mean is not None and site.variance is not None and site.norm is not None:
            for run in runs:
                run.advance(site.norm, inclusive=False)
            source = site.op if site.norm is not site.op else site.input
            values = [run.value(source) for run in runs]
            found[site.mean], found[site.variance] = channel_moments(values)
    return found


def test_copies_of_one_state_keep_its_function(combiner: Combiner, model: nn.Module) -> None:
    batches = inputs()
    state = calibrated(model, drawn(model, 1)[0], batches)
    analysis = analysis_of(model, batches[0][:2])
    for weights in ([1.0], [0.3, 0.7]):
        found = combiner.combine(analysis, [state] * len(weights), weights, batches)
        outputs = [functional_call(model, s, batches[0]) for s in (found, state)]
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)


def test_keys_shapes_and_dtypes_stay_and_nothing_is_changed_in_place(
    combiner: Combiner, model: nn.Module
) -> None:
    states, batches = drawn(model, 2), inputs()
    for state in states:
        state["counter"] = torch.tensor(3)
    states[1]["counter"] = torch.tensor(5)
    before = copy.deepcopy((states, batches))
    found = combiner.combine(analysis_of(model, batches[0][:2]), states, [0.5, 0.5], batches)
    kinds = {k: (v.shape, v.dtype) for k, v in states[0].items()}
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == kinds
    assert found["counter"] == 3
    for value in found.values():
        value.zero_()
    torch.testing.assert_close((states, batches), before, rtol=0, atol=0)


def test_it_is_deterministic(combiner: Combiner, model: nn.Module) -> None:
    states, batches = drawn(model, 3), inputs()
    analysis = analysis_of(model, batches[0][:2])
    first, second = (combiner.combine(analysis, states, [0.2, 0.3, 0.5], batches) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_parent_of_weight_one_keeps_its_function(combiner: Combiner, model: nn.Module) -> None:
    batches = inputs()
    states = [calibrated(model, s, batches) for s in drawn(model, 2)]
    found = combiner.combine(analysis_of(model, batches[0][:2]), states, [1.0, 0.0], batches)
    outputs = [functional_call(model, s, batches[0]) for s in (found, states[0])]
    torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)


RESNETS = ("resnet20", "resnet20-group")


@pytest.mark.parametrize("name", tiers(["mlp", "cnn", *RESNETS], slow=RESNETS))
def test_repair_gives_every_unit_its_parents_mean_and_deviation(name: str) -> None:
    model = MODELS[name]().double().eval()
    states, batches = drawn(model, 2), inputs()
    t = trace(model, (batches[0][:2],))
    found = COMBINERS["repair"].combine(
        analysis_of(model, batches[0][:2]), states, [0.25, 0.75], batches
    )
    runs = [[PartialInterpreter(t, state, x) for x in batches] for state in (*states, found)]
    for site in sites(t, sums=False):
        if site.norm is site.op or (site.norm is None and site.bias is None):
            continue
        moments = []
        for own in runs:
            for run in own:
                run.advance(site.end)
            mean, variance = channel_moments([run.value(site.end) for run in own])
            moments.append(torch.stack([mean, variance.sqrt()]))
        expected = 0.25 * moments[0] + 0.75 * moments[1]
        torch.testing.assert_close(moments[2], expected, rtol=1e-4, atol=1e-4)


def test_expected_statistics_are_exact_for_copies_and_shrink_with_the_weights() -> None:
    model = small("cnn", width=0.3).eval()
    analysis = analysis_of(model, torch.zeros(2, 3, 8, 8))
    (state,) = drawn(model, 1)
    same = predicted_statistics(analysis, [state] * 2, [0.5, 0.5], state)
    torch.testing.assert_close(same, state)
    (site, *_) = sites(analysis.trace, sums=False)
    assert site.weight is not None
    assert site.variance is not None
    apart = {**state, site.weight: 0.5 * state[site.weight]}
    states = [state, {**state, site.weight: torch.zeros_like(state[site.weight])}]
    found = predicted_statistics(analysis, states, [0.5, 0.5], apart)
    torch.testing.assert_close(found[site.variance], state[site.variance])
    crossed = {**state, site.weight: -state[site.weight]}
    none = predicted_statistics(
        analysis, [state, crossed], [0.5, 0.5], mix([state, crossed], [0.5, 0.5])
    )
    assert float(none[site.variance].max()) < 1e-6
