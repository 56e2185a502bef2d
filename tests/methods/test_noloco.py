"""``noloco``: agents who meet in pairs, come together, and carry outer momenta of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.methods.agents import Agents, agents_of, irregular, merge
from tests.methods.lossy import Losses, merge_over

from dimat.errors import StructureError, TrainingError
from dimat.methods import DiLoCo, NoLoCo, RoundContext
from dimat.methods.pairs import pairs
from dimat.state import State, num_bytes
from dimat.topology import build_topology


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


def left(method: NoLoCo, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where 16 agents are who do not train and may all meet: at first, and after some rounds."""
    network = build_topology("full", 16).at(0)
    first = torch.randn(16, 20, generator=torch.Generator().manual_seed(0)).double()
    states: list[State] = [{"x": x} for x in first]
    kept: list[Mapping[str, State]] = [{}] * 16
    for number in range(1, count + 1):
        them = [
            RoundContext(i, number, s, network, ["x"], never, never, kept=k)
            for i, (s, k) in enumerate(zip(states, kept, strict=True))
        ]
        merged, _ = merge(method, them)
        states, kept = [dict(r.state) for r in merged], [r.kept for r in merged]
    return first, torch.stack([s["x"] for s in states])


def never() -> Any:
    raise AssertionError("nothing is matched here")


def test_pairs_meet_and_who_has_no_partner_says_nothing_and_trains_on(own: Agents) -> None:
    graph, states = irregular(0, 5), own.perturbed(5)
    them = own.members(states, graph, number=2)
    met = pairs(them[0].topology, 7, 2)
    assert 0 < len(met) < 5
    merged, traffic = merge(NoLoCo(seed=7), them)
    for i, (result, count) in enumerate(zip(merged, traffic, strict=True)):
        each = num_bytes(states[0]) if i in met else 0
        assert (count.sent_bytes, count.received_bytes) == (each, each)
        if i not in met:
            torch.testing.assert_close(result.state, states[i], rtol=0, atol=0)
            assert result.disagreement is None


def test_agents_who_do_not_train_come_together_at_their_mean() -> None:
    first, last = left(NoLoCo(), 60)
    torch.testing.assert_close(last, first.mean(0).expand(16, 20), rtol=0, atol=1e-3)
    torch.testing.assert_close(last.mean(0), first.mean(0), rtol=0, atol=1e-12)


def test_with_the_outer_momentum_of_diloco_they_drift_apart() -> None:
    first, last = left(NoLoCo(momentum=DiLoCo().momentum), 90)
    assert float(last.std(0).mean()) > 2 * float(first.std(0).mean())


def test_an_outer_step_of_one_without_momentum_is_the_mean_of_the_pair(own: Agents) -> None:
    them = own.members(own.perturbed(2), irregular(0, 2))
    first, _ = merge(NoLoCo(1.0, 0.0), them)
    away = own.perturbed(2, by=0.3, seed=9)
    then = [replace(m, state=s, kept=r.kept) for m, s, r in zip(them, away, first, strict=True)]
    for result in merge(NoLoCo(1.0, 0.0), then)[0]:
        for key in own.parameters:
            torch.testing.assert_close(result.state[key], (away[0][key] + away[1][key]) / 2)


def test_running_statistics_are_averaged_and_take_no_outer_step() -> None:
    network = build_topology("full", 2).at(0)
    states = [{"x": torch.tensor([v]), "running": torch.tensor([v])} for v in (1.0, 3.0)]
    kept = {"outer": {"x": torch.zeros(1)}, "velocity": {"x": torch.ones(1)}}
    them = [
        RoundContext(i, 2, s, network, ["x"], never, never, kept=kept) for i, s in enumerate(states)
    ]
    for result in merge(NoLoCo(), them)[0]:
        expected = {"x": torch.tensor([0.5 + 0.7 * 2.0]), "running": torch.tensor([2.0])}
        torch.testing.assert_close(result.state, expected)


def test_a_partner_that_is_not_heard_or_does_not_fit_is_named(own: Agents) -> None:
    them = own.members(own.perturbed(2), irregular(0, 2))
    with pytest.raises(TrainingError, match="nothing from agent 1, and this method needs"):
        merge_over(Losses(lambda j, i, k: j == 1), NoLoCo(), them)
    key = own.parameters[0]
    short = [them[0], replace(them[1], state={**them[1].state, key: them[1].state[key][1:]})]
    with pytest.raises(StructureError, match=f"state from agent . does not fit: '{key}'"):
        merge(NoLoCo(), short)


def test_every_round_draws_other_pairs_of_any_graph() -> None:
    network = build_topology("ring", 6)
    drawn = {frozenset(pairs(network, 0, number).items()) for number in range(20)}
    assert len(drawn) > 4
    assert not np.array_equal(*(sorted(pairs(network, s, 1).items()) for s in (0, 1)))
