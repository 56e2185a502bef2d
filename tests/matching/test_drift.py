"""Drift is 0 where units stay, whatever else happens to them, and near 1 for another order."""

from __future__ import annotations

import pytest
import torch
from tests.methods.agents import Agents, agents_of
from tests.tiers import tiers

from dimat.methods.ordering.drift import drift


@pytest.fixture(scope="module", params=tiers(["mlp", "cnn", "resnet20"], slow=["resnet20"]))
def own(request: pytest.FixtureRequest) -> Agents:
    return agents_of(request.param)


def test_alike_states_have_not_drifted_and_scale_is_no_drift(own: Agents) -> None:
    a, b = own.perturbed(2, by=0.01)
    scaled = {k: 3 * v if v.is_floating_point() else v for k, v in b.items()}
    assert drift(own.analysis, a, a) == 0.0
    assert drift(own.analysis, a, b) == 0.0
    assert drift(own.analysis, a, scaled) == 0.0


def test_another_order_is_drift_and_so_is_one_unit_that_changed_places(own: Agents) -> None:
    a, b = own.perturbed(2, by=0.01)
    symmetry = own.analysis.symmetry
    assert drift(own.analysis, own.shuffled([a])[0], b) > 0.7
    slots = {name: rows.copy() for name, rows in symmetry.identity().slots.items()}
    first = next(iter(slots))
    slots[first][0, [0, 1]] = [1, 0]
    swapped = symmetry.apply(type(symmetry.identity())(slots, symmetry.digest), a)
    units = sum(group.cells * group.size for group in symmetry.groups)
    # the two, and some that read them
    assert 2 / units - 1e-9 <= drift(own.analysis, swapped, b) < 0.25


def test_drift_is_seen_from_weights_alone(own: Agents) -> None:
    """Dead units, which no activation tells apart, count as any other."""
    a, b = own.perturbed(2, by=0.01)
    key = next(k for k in a if k.endswith("bias"))
    dead = [{**s, key: torch.full_like(s[key], -1e3)} for s in (a, b)]
    assert drift(own.analysis, dead[0], dead[1]) == 0.0
