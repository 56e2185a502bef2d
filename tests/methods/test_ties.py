"""Copies of one state with dead, constant and doubled units merge to that state, whatever way."""

from __future__ import annotations

import pytest
import torch
from tests.methods.agents import Agents, agents_of, irregular, merge
from torch.func import functional_call

from dimat.methods import Dimat
from dimat.methods.gauge import GaugeId
from dimat.state import State

WAYS = {
    "pairwise, local": Dimat(gauge="pairwise"),
    "pairwise, pooled": Dimat(gauge="pairwise", statistics="pooled"),
    "tree, local": Dimat(gauge="tree"),
    "tree, pooled": Dimat(gauge="tree", statistics="pooled", sweeps=2),
    "spread": Dimat(gauge="spread"),
}


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


def spoilt(state: State) -> State:
    """Dead, constant and doubled units in both layers, which nothing but weights tells apart."""
    found = {key: value.clone() for key, value in state.items()}
    for name in ("hidden1", "hidden2"):
        weight, bias = found[f"{name}.weight"], found[f"{name}.bias"]
        bias[[0, 3, 5]] -= 1e3
        weight[[1, 6]], bias[[1, 6]] = weight[2].clone(), bias[2].clone()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_agents_with_copies_of_one_state_have_it_still_after_they_merged(
    own: Agents, way: str
) -> None:
    state, graph = spoilt(own.model.state_dict()), irregular(0)
    states = own.shuffled([state] * len(graph))
    ids: dict[int, GaugeId | None] = dict.fromkeys(graph)
    for number in (1, 2, 3):
        merged, _ = merge(Dimat(WAYS[way]), own.members(states, graph, number, ids))
        states, ids = [m.state for m in merged], {i: m.gauge for i, m in enumerate(merged)}
    for scale in (1, 1e5):  # where nothing is dead
        x = scale * torch.randn(16, 2, 6, 6, dtype=torch.float64)
        expected = functional_call(own.model, state, x)
        for found in states:
            torch.testing.assert_close(functional_call(own.model, found, x), expected)
