"""Methods that stand for a server: fedavg and diloco, against dense means and torch's Nesterov."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.methods.agents import Agents, agents_of, irregular, merge

from dimat.errors import StructureError
from dimat.exchange import Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.methods import (
    DiLoCo,
    Dimat,
    FedAvg,
    FinalMerge,
    RoundContext,
    RoundResult,
    WeightMatching,
)
from dimat.state import State


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


def mean(states: list[State], weights: list[float]) -> State:
    return {
        key: sum(w * s[key] for w, s in zip(weights, states, strict=True)) / sum(weights)  # type: ignore[misc]
        if value.is_floating_point()
        else value
        for key, value in states[0].items()
    }


def test_federated_averaging_is_the_mean_weighted_by_images_on_any_graph(own: Agents) -> None:
    states = own.perturbed(6)
    images = [10, 20, 5, 40, 1, 7]
    them = own.members(states, irregular(0))
    merged, _ = merge(FedAvg(), [replace(m, images=n) for m, n in zip(them, images, strict=True)])
    expected = mean(states, [float(n) for n in images])
    for result in merged:
        torch.testing.assert_close(result.state, expected)


def rounds(method: DiLoCo | FedAvg, own: Agents, count: int) -> list[list[RoundResult]]:
    """Merges one after another; between them every agent moves as it did at first."""
    drift = own.perturbed(5)
    states, kept, found = own.perturbed(5, by=0.3), [{}] * 5, []
    for _ in range(count):
        them = own.members(states, irregular(1, 5))
        merged, _ = merge(method, [replace(m, kept=k) for m, k in zip(them, kept, strict=True)])  # type: ignore[arg-type]
        found.append(merged)
        kept = [dict(m.kept) for m in merged]  # type: ignore[misc]
        states = [
            {k: m.state[k] + 0.1 * d[k] if d[k].is_floating_point() else d[k] for k in d}
            for m, d in zip(merged, drift, strict=True)
        ]
    return found


def test_the_outer_step_is_torchs_nesterov_on_the_mean_change(own: Agents) -> None:
    found = rounds(DiLoCo(0.7, 0.9), own, 5)
    names = own.members(own.perturbed(1), irregular(1, 1))[0].parameters
    drift = mean(own.perturbed(5), [1.0] * 5)
    outer = {k: found[0][0].state[k].clone().requires_grad_() for k in names}
    nesterov = torch.optim.SGD(list(outer.values()), 0.7, 0.9, nesterov=True)
    for merged in found[1:]:
        for key, value in outer.items():
            value.grad = -0.1 * drift[key]  # the outer state minus the mean of where agents went
        nesterov.step()
        for result in merged:
            got = {k: result.state[k] for k in names}
            torch.testing.assert_close(got, {k: v.detach() for k, v in outer.items()})


def test_an_outer_step_of_one_without_momentum_is_the_mean(own: Agents) -> None:
    ours, theirs = rounds(DiLoCo(1.0, 0.0), own, 3), rounds(FedAvg(), own, 3)
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x.state, y.state)


def test_a_state_that_does_not_fit_is_refused_by_the_number_of_its_agent(own: Agents) -> None:
    states = own.perturbed(4)
    key = next(iter(states[0]))
    states[2] = {**states[2], key: states[2][key][1:]}
    with pytest.raises(StructureError, match=f"state from agent 2 does not fit: '{key}'"):
        merge(FedAvg(), own.members(states, irregular(0, 4)))


@pytest.mark.parametrize("count", [torch.tensor([0]), torch.tensor([1.0]), torch.tensor([1, 1])])
def test_a_number_of_images_that_is_none_is_refused(own: Agents, count: torch.Tensor) -> None:
    def lying(me: RoundContext) -> Talk[RoundResult]:
        yield Step({0: {**me.state, "/images": count}}, [0])
        return RoundResult(me.state)

    them = own.members(own.perturbed(2), irregular(0, 2))
    with pytest.raises(StructureError, match="from agent 1 does not fit: '/images' must be one"):
        run_all([FedAvg().merge(them[0]), lying(them[1])], [Traffic(), Traffic()])


def test_a_final_merge_is_silent_until_the_last_round(own: Agents) -> None:
    them = own.members(own.shuffled(own.perturbed(6)), irregular(2))
    early, traffic = merge(FinalMerge(), [replace(m, round=3, rounds=4) for m in them])
    assert traffic == [Traffic()] * 6
    assert all(m.disagreement is None for m in early)
    last, _ = merge(FinalMerge(), [replace(m, round=4, rounds=4) for m in them])
    expected, _ = merge(Dimat("tree"), [replace(m, round=4, rounds=4) for m in them])
    for a, b in zip(last, expected, strict=True):
        torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)


def test_weight_matching_brings_permuted_copies_back_into_each_agents_own_order(
    own: Agents,
) -> None:
    states = own.shuffled([own.perturbed(1)[0]] * 6)
    merged, _ = merge(WeightMatching(), own.members(states, irregular(3)))
    for state, result in zip(states, merged, strict=True):
        torch.testing.assert_close(result.state, state)
        assert result.disagreement == pytest.approx(0, abs=1e-9)
        assert result.permutation is None
