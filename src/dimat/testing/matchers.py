"""What every matcher keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dimat.matching import MATCHERS, Matcher, Matching, Problem
from dimat.state import State
from dimat.testing.laws import keeps
from dimat.testing.layers import SHAPES, SmallModel, example


def check_matcher(matcher: Any, *, finds: bool = True) -> None:
    """Check that a matcher keeps the laws that dimat's matchers keep.

    Args:
        matcher: As it is registered: an object, or its class; or its name.
        finds: Whether it is to find permuted copies; ``identity`` is not.

    Raises:
        AssertionError: Naming the law that is broken.
        ConfigError: If it cannot be registered.
    """
    own = MATCHERS[matcher] if isinstance(matcher, str) else MATCHERS.prepared("mine", matcher)
    for name in SHAPES:
        keeps(FINDING if finds else LAWS, own, example(name))


def match(matcher: Matcher, given: SmallModel, states: Sequence[State]) -> list[Matching]:
    """The matcher on states of equal weight."""
    batches = given.batches if matcher.needs_batches else ()
    weights = [1 / len(states)] * len(states)
    return matcher.match(Problem(given.analysis, list(states), weights, batches))


def the_first_stays(matcher: Matcher, given: SmallModel) -> None:
    """There is a matching for every state, and that of the first is the identity."""
    for count in (1, 2, 3):
        found = match(matcher, given, given.states(count))
        assert len(found) == count
        assert found[0].permutation.moved == 0
        assert {own.permutation.digest for own in found} == {given.analysis.symmetry.digest}


def states_stay_and_twice_is_the_same(matcher: Matcher, given: SmallModel) -> None:
    """States are not changed in place, and twice gives the same."""
    states = given.states(3)
    before = copy.deepcopy(states)
    once, twice = (match(matcher, given, states) for _ in range(2))
    torch.testing.assert_close(states, before, rtol=0, atol=0)
    for a, b in zip(once, twice, strict=True):
        for key, slots in a.permutation.slots.items():
            np.testing.assert_array_equal(slots, b.permutation.slots[key])


def permuted_copies_are_brought_back(matcher: Matcher, given: SmallModel) -> None:
    """A copy of the first state in another unit order is brought back exactly."""
    (state,) = given.states(1)
    states = [state, given.copy(state), given.copy(state, seed=3)]
    for own, found in zip(states, match(matcher, given, states), strict=True):
        back = given.analysis.symmetry.apply(found.permutation, own)
        torch.testing.assert_close(back, state, rtol=0, atol=0)


def similarities_are_numbers(matcher: Matcher, given: SmallModel) -> None:
    """Similarities are in [-1, 1], and margins are finite."""
    for found in match(matcher, given, given.states(2)):
        for own in found.similarities.values():
            assert (np.abs(own) <= 1).all()
        for own in found.margins.values():
            assert np.isfinite(own).all()


LAWS: tuple[Callable[[Matcher, SmallModel], None], ...] = (
    the_first_stays,
    states_stay_and_twice_is_the_same,
)
FINDING = (*LAWS, permuted_copies_are_brought_back, similarities_are_numbers)
