"""One conformance suite over all combiners, and what repair and expected statistics promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.analyses import analyze
from tests.merging.test_regression import MODELS, analysis_of, drawn, inputs, small
from tests.tiers import tiers
from torch import nn

from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import trace
from dimat.merging import COMBINERS, Combiner, mix, predicted_statistics
from dimat.merging.layerwise.norms import channel_moments
from dimat.merging.layerwise.sites import sites
from dimat.testing.combiners import LAWS
from dimat.testing.layers import SmallModel


@pytest.fixture(params=list(COMBINERS))
def combiner(request: pytest.FixtureRequest) -> Combiner:
    return COMBINERS[request.param]


@pytest.fixture(params=["mlp", "cnn", "group-norm-alone"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    built: nn.Module = MODELS[request.param]()
    return built.double().eval()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_combiner_keeps_the_laws(
    combiner: Combiner, model: nn.Module, law: Callable[[Combiner, SmallModel], None]
) -> None:
    batches = inputs()
    law(combiner, SmallModel(model, analyze(model, (batches[0][:2],)), batches))


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
