"""A state that is finite and huge is not mixed, by default and whoever runs the merge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from tests.exchange.threads import peers_file
from tests.laws.graphs import PAW
from tests.methods.agents import Agents, agents_of
from tests.methods.lossy import Losses, merge_over
from tests.methods.making import made

import dimat
from dimat.errors import ConfigError, StructureError, TrainingError
from dimat.experiment.config.config import DataConfig, ExchangeConfig, RunConfig
from dimat.experiment.config.methods import make_method
from dimat.methods import MAX_NORM_RATIO, METHODS, Averaging, RoundContext
from dimat.methods.admit import validate_state
from dimat.state import State
from dimat.topology import build_topology
from dimat.training.trainer import LocalTrainer

SMALL = RunConfig(
    agents=3,
    rounds=1,
    pretrain_epochs=0,
    local_steps=1,
    method="wa",
    controls=(),
    threads=1,
    data=DataConfig(train_images=300),
)


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


def times(factor: float, state: State) -> State:
    return {k: v * factor if v.is_floating_point() else v for k, v in state.items()}


@pytest.mark.parametrize("name", ["wa", "wm", "dimat", "final-merge"])
@pytest.mark.parametrize("factor", [1e4, 11.0, 1 / 11, 1e-4])
def test_by_default_a_state_out_of_proportion_is_as_if_it_were_lost(
    own: Agents, name: str, factor: float
) -> None:
    method = made(name, gauge="spread")
    them = own.members(own.perturbed(4), PAW)
    found = merge_over(
        losses := Losses(spoilt=lambda j, i, k, m: times(factor, dict(m)) if j == 2 else m),
        method,
        them,
    )
    lost = merge_over(Losses(lambda j, i, k: j == 2), method, them)
    for a, b in zip(found, lost, strict=True):
        torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)
    assert {(i, j) for i, j, _ in losses.refused} == {(0, 2), (1, 2), (3, 2)}
    assert all("max_norm_ratio' (of 'exchange'; null: any)" in why for _, _, why in losses.refused)


def test_the_ratio_is_of_the_norms_of_all_parameters_and_of_no_buffers() -> None:
    """An entry alone says little, as a bias begins at 0; statistics are computed anew."""
    weight, bias, mean = torch.tensor([3.0, 4.0]), torch.tensor([0.0]), torch.tensor([1.0])
    ours = {"weight": weight, "bias": bias, "mean": mean}
    topology = build_topology("full", 2).at(0)
    me = RoundContext(0, 1, ours, topology, ["weight", "bias"], lambda: None, list)  # type: ignore[arg-type,return-value]
    admit = validate_state(me, 10.0)
    admit(1, {**ours, "bias": bias + 49, "mean": mean * 1e6})
    for spoilt in ({"weight": weight * 10.1}, {"weight": weight * 0.099}, {"bias": bias + 50}):
        with pytest.raises(StructureError, match=r"ours 5: .* at most 50, and at least 0\.5$"):
            admit(1, {**ours, **spoilt})


def test_one_default_holds_for_every_way_to_run_and_null_is_off() -> None:
    assert ExchangeConfig().max_norm_ratio == MAX_NORM_RATIO == Averaging().max_norm_ratio == 10
    assert Averaging().max_norm_ratio == MAX_NORM_RATIO
    for apart in (False, True):  # dimat run and torchrun; dimat agent
        off = replace(SMALL, exchange=ExchangeConfig(max_norm_ratio=None))
        for name in ("dimat", "wa", "wm", "final-merge"):
            own, any_ratio = (make_method(x, name, apart=apart) for x in (SMALL, off))
            assert vars(own)["max_norm_ratio"] == MAX_NORM_RATIO
            assert vars(any_ratio)["max_norm_ratio"] is None


def test_an_agent_in_ones_own_loop_has_the_default_and_can_have_another(
    tmp_path: Path,
) -> None:
    def method(**settings: object) -> object:
        own = dimat.Agent(
            torch.nn.Linear(2, 2),
            None,
            topology="ring",
            calibration=[torch.zeros(2, 2)],
            method="wa",
            id=0,
            agents=1,
            peers=peers_file(tmp_path, 1),
            insecure=True,
            **settings,  # type: ignore[arg-type]
        )
        with own:
            return own._method

    assert method() == Averaging(max_norm_ratio=MAX_NORM_RATIO)
    assert method(max_norm_ratio=None) == Averaging(max_norm_ratio=None)
    for wrong in (0.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="'max_norm_ratio' is .*: must be >= 1, or None"):
            method(max_norm_ratio=wrong)


def test_in_one_process_a_state_out_of_proportion_ends_the_run_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    context = LocalTrainer.context

    def diverged(self: LocalTrainer, number: int) -> RoundContext:
        me = context(self, number)
        return replace(me, state=times(1e4, dict(me.state))) if me.agent == 1 else me

    monkeypatch.setattr(LocalTrainer, "context", diverged)
    with pytest.raises(TrainingError, match="round 1.*state from agent .*max_norm_ratio"):
        dimat.run(replace(SMALL, out=f"{tmp_path}/run"))
    off = ExchangeConfig(max_norm_ratio=None)
    dimat.run(replace(SMALL, out=f"{tmp_path}/off", exchange=off))


def test_for_one_that_is_new_its_own_norm_is_a_coarse_measure(own: Agents) -> None:
    """It was not trained: what it takes over may be far from it, but not so far."""
    me = own.members(own.perturbed(4), PAW)[0]
    pi = me.topology.pi.copy()
    pi[0] = np.eye(4)[1]
    new = replace(me, topology=replace(me.topology, pi=pi))
    validate_state(new, 10.0)(1, times(50.0, dict(me.state)))
    with pytest.raises(StructureError, match="norm"):
        validate_state(new, 10.0)(1, times(1e4, dict(me.state)))


def test_a_memory_that_is_huge_counts_as_ones_own_and_a_small_one_is_mixed(own: Agents) -> None:
    graph = nx.complete_graph(3)
    states = own.perturbed(3)
    memories = [{"exp_avg": {k: s[k] for k in own.parameters}} for s in states]
    them = own.members(states, graph, memories=memories)
    method = METHODS["wa"](mix_memory=True)

    def memory(factor: float) -> Losses:
        return Losses(spoilt=lambda j, i, k, m: times(factor, dict(m)) if (j, k) == (2, 1) else m)

    found = merge_over(losses := memory(1e4), method, them)
    lost = merge_over(Losses(lambda j, i, k: (j, k) == (2, 1)), method, them)
    for a, b in zip(found, lost, strict=True):
        torch.testing.assert_close(a.memory, b.memory, rtol=0, atol=0)
    assert "optimizer memory from agent 2 has norm" in losses.refused[0][2]
    merge_over(losses := memory(1e-6), method, them)
    assert losses.refused == []
