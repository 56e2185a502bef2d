"""Who has all its weight on one neighbor, and hears only others, stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from tests.laws.graphs import PAW
from tests.methods.agents import agents_of
from tests.methods.lossy import Losses, merge_over

from dimat.methods import Dimat
from dimat.methods.gauge import GaugeId


def test_one_that_is_new_and_misses_its_leader_stays_as_it_is_whatever_order_it_hears_of() -> None:
    own = agents_of("mlp")
    gauges = {0: None, 1: GaugeId(1, 1), 2: GaugeId(2, 1), 3: GaugeId(2, 1)}
    them = own.members(own.perturbed(4), PAW, number=5, gauges=gauges)
    pi = them[0].topology.pi.copy()
    pi[0] = np.eye(4)[1]
    them[0] = replace(them[0], topology=replace(them[0].topology, pi=pi))
    found = merge_over(Losses(lambda j, i, k: (j, i) == (1, 0)), Dimat("spread"), them)[0]
    torch.testing.assert_close(found.state, dict(them[0].state), rtol=0, atol=0)
    assert found.permutation is None
    assert not found.disagreement  # it did not hear the one that it wanted to take over
