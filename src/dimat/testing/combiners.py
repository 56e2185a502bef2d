"""What every combiner keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dimat.graph.interpreter import PartialInterpreter
from dimat.graph.trace import Trace
from dimat.merging import COMBINERS, Combiner, StatisticsCombiner
from dimat.merging.layerwise.norms import channel_moments
from dimat.merging.layerwise.sites import sites
from dimat.merging.protocol import StateCombiner
from dimat.state import State
from dimat.testing.laws import keeps
from dimat.testing.layers import SHAPES, SmallModel, example


def check_combiner(combiner: Any) -> None:
    """Check that a combiner keeps the laws that dimat's combiners keep.

    Args:
        combiner: As it is registered: an object, or its class; or its name.

    Raises:
        AssertionError: Naming the law that is broken.
        ConfigError: If it cannot be registered.
    """
    named = isinstance(combiner, str)
    own = COMBINERS[combiner] if named else COMBINERS.prepared("mine", combiner)
    for name in SHAPES:
        keeps(LAWS, own, example(name))


def calibrated(trace: Trace, state: State, batches: list[Tensor]) -> State:
    """A state with BatchNorm statistics of these batches, as trained networks have them."""
    found = dict(state)
    runs = [PartialInterpreter(trace, found, x) for x in batches]
    for site in sites(trace, sums=False):
        if site.mean is not None and site.variance is not None and site.norm is not None:
            for run in runs:
                run.advance(site.norm, inclusive=False)
            source = site.op if site.norm is not site.op else site.input
            values = [run.value(source) for run in runs]
            found[site.mean], found[site.variance] = channel_moments(values)
    return found


def copies_keep_their_function(combiner: Combiner, given: SmallModel) -> None:
    """Copies of one state combine to what it computes, whatever their weights."""
    state = calibrated(given.analysis.trace, given.states(1)[0], given.batches)
    for weights in ([1.0], [0.3, 0.7]):
        states = [state] * len(weights)
        found = combiner.combine(given.analysis, states, weights, given.batches)
        outputs = given.outputs(found), given.outputs(state)
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)


def weight_one_keeps_its_function(combiner: Combiner, given: SmallModel) -> None:
    """A state of weight one combines with one of weight zero to what it computes."""
    states = [calibrated(given.analysis.trace, s, given.batches) for s in given.states(2)]
    found = combiner.combine(given.analysis, states, [1.0, 0.0], given.batches)
    outputs = given.outputs(found), given.outputs(states[0])
    torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)


def entries_stay(combiner: Combiner, given: SmallModel) -> None:
    """Names, shapes and types stay, what counts is the first's, nothing is changed in place."""
    states, batches = given.states(2), given.batches
    for state, count in zip(states, (3, 5), strict=True):
        state["counter"] = torch.tensor(count)
    before = copy.deepcopy((states, batches))
    found = combiner.combine(given.analysis, states, [0.5, 0.5], batches)
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
        k: (v.shape, v.dtype) for k, v in states[0].items()
    }
    assert found["counter"] == 3
    for value in found.values():
        value.zero_()
    torch.testing.assert_close((states, batches), before, rtol=0, atol=0)


def twice_is_the_same(combiner: Combiner, given: SmallModel) -> None:
    """Twice gives the same, to the last bit."""
    states, weights = given.states(3), [0.2, 0.3, 0.5]
    once, twice = (
        combiner.combine(given.analysis, states, weights, given.batches) for _ in range(2)
    )
    torch.testing.assert_close(once, twice, rtol=0, atol=0)


def states_alone_combine_to_the_same(combiner: Combiner, given: SmallModel) -> None:
    """combine_states, which runs call, gives what combine gives; one that inherits it has both."""
    if not isinstance(combiner, StateCombiner):
        return
    states, weights = given.states(3), [0.2, 0.3, 0.5]
    found = combiner.combine_states(states, weights)
    expected = combiner.combine(given.analysis, states, weights, given.batches)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def statistics_have_one_form(combiner: Combiner, given: SmallModel) -> None:
    """Statistics that travel have the same names and shapes, whatever they were measured on."""
    if not isinstance(combiner, StatisticsCombiner):
        return
    few = [2 * given.batches[0][:2]]
    for budget in BUDGETS:
        forms = []
        for state, batches in zip(given.states(2), (given.batches, few), strict=True):
            found = combiner.statistics(given.analysis, state, batches, budget)
            forms.append({key: (value.shape, value.dtype) for key, value in found.items()})
        assert forms[0] == forms[1]


def statistics_move_with_the_units(combiner: Combiner, given: SmallModel) -> None:
    """Statistics that travel, moved or measured after the move, give the fit in that order."""
    if not isinstance(combiner, StatisticsCombiner):
        return
    analysis, states = given.analysis, given.states(2)
    permutation = analysis.symmetry.random(torch.Generator().manual_seed(2))
    there = [analysis.symmetry.apply(permutation, state) for state in states]
    seen = [[scale * x for x in given.batches] for scale in (1.0, 2.0)]
    for budget in BUDGETS:
        before, after = (
            [combiner.statistics(analysis, s, x, budget) for s, x in zip(own, seen, strict=True)]
            for own in (states, there)
        )
        pairs = zip(states, before, strict=True)
        moved = [combiner.moved(analysis, s, own, permutation) for s, own in pairs]
        fitted = combiner.fit(analysis, states, [0.3, 0.7], before)
        expected = analysis.symmetry.apply(permutation, fitted)
        for own in (moved, after):
            found = combiner.fit(analysis, there, [0.3, 0.7], own)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def copies_keep_their_function_whatever_they_have_seen(
    combiner: Combiner, given: SmallModel
) -> None:
    """Copies of one state combine to what it computes, however their statistics differ."""
    if not isinstance(combiner, StatisticsCombiner):
        return
    state = calibrated(given.analysis.trace, given.states(1)[0], given.batches)
    for budget in BUDGETS:
        owns = [
            combiner.statistics(given.analysis, state, [scale * x for x in given.batches], budget)
            for scale in (1.0, 3.0)
        ]
        for own in owns:
            combiner.check(own, "statistics of a copy")
        found = combiner.fit(given.analysis, [state, state], [0.3, 0.7], owns)
        outputs = given.outputs(found), given.outputs(state)
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-6)


BUDGETS = (float("inf"), 0.0)  # of statistics: as many as there are, and as few

LAWS: tuple[Callable[[Combiner, SmallModel], None], ...] = (
    copies_keep_their_function,
    weight_one_keeps_its_function,
    entries_stay,
    twice_is_the_same,
    states_alone_combine_to_the_same,
    statistics_have_one_form,
    statistics_move_with_the_units,
    copies_keep_their_function_whatever_they_have_seen,
)
