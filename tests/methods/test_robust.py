"""Methods that mix by a robust rule: one agent lies, and what it can do is bounded; or refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.graphs import connected_graphs
from tests.methods.agents import Agents, agents_of
from tests.methods.lossy import Losses, merge_over
from tests.methods.making import made

import dimat
from dimat.errors import ConfigError, TopologyError
from dimat.experiment.config.config import (
    DataConfig,
    ExchangeConfig,
    MergingConfig,
    MixingConfig,
    OptimizerConfig,
    RunConfig,
    TopologyConfig,
)
from dimat.experiment.config.methods import make_method
from dimat.experiment.config.validate import validate
from dimat.experiment.setup import make_setup
from dimat.merging import mix
from dimat.methods import METHODS, check_needs
from dimat.methods.robust import is_robust, mix_heard
from dimat.state import State, squared_distance
from dimat.testing.laws import keeps
from dimat.testing.methods import MERGES, it_works_on_any_connected_graph, known_network
from dimat.topology import build_topology

RULES = ("clip", "trimmed")
WAYS: dict[str, dict[str, Any]] = {
    "wa": {},
    "wm": {},
    "dimat": {"gauge": "pairwise"},
    "final-merge": {"gauge": "pairwise"},
}
SMALL = RunConfig(
    agents=4,
    rounds=2,
    pretrain_epochs=0,
    local_steps=1,
    method="wa",
    controls=(),
    threads=1,
    data=DataConfig(split="iid", train_images=300),
)


def asked(rule: str, **settings: Any) -> RunConfig:
    exchange = ExchangeConfig(robust=rule)  # type: ignore[arg-type]
    return replace(SMALL, exchange=exchange, **settings)


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


def flipped(j: int, i: int, k: int, message: Any) -> dict[str, Any]:
    """What agent 2 says in place of its state."""
    if j != 2:
        return dict(message)
    return {k: -3 * v if v.is_floating_point() else v for k, v in message.items()}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", WAYS)
def test_agents_who_agree_stay_whatever_one_says_and_by_an_average_they_do_not(
    own: Agents, name: str, rule: str
) -> None:
    graph = nx.Graph([(0, 1), (1, 2), (2, 3), (3, 0), (3, 4), (4, 0), (4, 5), (5, 2)])
    them = own.members([own.perturbed(1)[0]] * 6, graph)
    method = made(name, robust=rule, **WAYS[name])
    check_needs(name, method, them[0].topology)
    for me, result in zip(them, merge_over(Losses(spoilt=flipped), method, them), strict=True):
        torch.testing.assert_close(result.state, dict(me.state))
    plain = merge_over(Losses(spoilt=flipped), made(name, **WAYS[name]), them)
    moved = [
        squared_distance(result.state, me.state, own.parameters)
        for me, result in zip(them, plain, strict=True)
    ]
    assert [i for i, by in enumerate(moved) if by > 1e-6] == [1, 3, 5]


@settings(max_examples=30)
@given(connected_graphs(), st.integers(0, 1000), st.sampled_from(RULES))
def test_on_any_graph_one_liar_moves_nobody_past_its_farthest_honest_neighbor(
    graph: nx.Graph[int], seed: int, rule: Any
) -> None:
    """Who has one neighbor only takes nothing from it."""
    agents = agents_of("mlp")
    states = agents.perturbed(len(graph), seed=seed)
    liar = seed % len(graph)
    for me in agents.members(states, graph):
        if me.agent == liar:
            continue
        heard: dict[int, State] = {j: states[j] for j in me.neighbors}
        if liar in heard:
            heard[liar] = {k: v * -1e3 if v.dim() else v for k, v in states[liar].items()}
        found = mix_heard(me, dict(me.state), heard, rule)
        honest = [states[j] for j in me.neighbors if j != liar]
        if len(me.neighbors) < 2:
            torch.testing.assert_close(found, dict(me.state), rtol=0, atol=0)
        elif rule == "clip":
            most = max(squared_distance(me.state, x, me.parameters) for x in honest)
            assert squared_distance(me.state, found, me.parameters) <= most * (1 + 1e-9)
        else:
            for key in me.parameters:
                values = torch.stack([me.state[key], *(x[key] for x in honest)])
                assert (found[key] <= values.amax(0) + 1e-12).all()
                assert (found[key] >= values.amin(0) - 1e-12).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["wa", "wm", "dimat", "final-merge"])
def test_the_laws_of_all_methods_hold(name: str, rule: str) -> None:
    method, laws = made(name, robust=rule), [x for x in MERGES if x != MERGES[0]]
    assert MERGES[0] is it_works_on_any_connected_graph
    keeps(laws, method, known_network("mlp"))


@pytest.mark.parametrize("rule", RULES)
def test_further_mixing_steps_are_robust_as_well(own: Agents, rule: str) -> None:
    them = own.members([own.perturbed(1)[0]] * 5, nx.complete_graph(5))
    method = made("wa", robust=rule, mixing_steps=3)
    for result in merge_over(Losses(spoilt=flipped), method, them):
        torch.testing.assert_close(result.state, dict(them[0].state))


@pytest.mark.parametrize("rule", RULES)
def test_whoever_is_not_heard_makes_no_lie_more_credible(own: Agents, rule: str) -> None:
    """Of seven neighbors two may lie; where all but two are lost both may be the ones."""
    them = own.members(own.perturbed(8), nx.complete_graph(8))
    heard = Losses(lambda j, i, k: j not in (2, 3))
    for me, result in zip(them, merge_over(heard, made("wa", robust=rule), them), strict=True):
        torch.testing.assert_close(result.state, dict(me.state), rtol=0, atol=0)


def test_none_is_the_weighted_average_to_the_bit(own: Agents) -> None:
    for me in own.members(own.perturbed(5), nx.star_graph(4)):
        theirs = {j: own.perturbed(5)[j] for j in me.neighbors}
        plain = mix([me.state, *theirs.values()], me.weights)
        torch.testing.assert_close(mix_heard(me, dict(me.state), theirs), plain, rtol=0, atol=0)


def test_an_agent_with_one_neighbor_is_refused_before_anything_is_trained(tmp_path: Any) -> None:
    for name in ("wa", "wm", "dimat", "final-merge"):
        method = made(name, robust="clip")
        check_needs(name, method, build_topology("ring", 4).at(0))
        check_needs(name, made(name), build_topology("star", 4).at(0))
        with pytest.raises(TopologyError, match="two neighbors .*'star' agent 1 hears one only"):
            check_needs(name, method, build_topology("star", 4).at(0))
    config = asked("trimmed", out=str(tmp_path / "run"), topology=TopologyConfig("star"))
    with pytest.raises(TopologyError, match=r"two neighbors .*exchange\.robust none"):
        dimat.run(config)
    assert not (tmp_path / "run").exists()


def test_a_method_that_would_mix_whatever_it_is_sent_is_refused() -> None:
    assert [x for x in METHODS if is_robust(METHODS[x])] == ["dimat", "wa", "wm", "final-merge"]
    for name, kind in METHODS.items():
        config = asked("clip", method=name)
        if is_robust(kind) or kind.exchanges == "never":
            validate(config)
            continue
        with pytest.raises(ConfigError, match=rf"'{name}' cannot do.* dimat, wa, wm, final-merge"):
            validate(config)
        with pytest.raises(ConfigError, match=f"method '{name}' cannot do"):
            validate(asked("trimmed", controls=(name,)))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"merging": MergingConfig("gram")}, "'merging.combine' is gram.*combine average"),
        ({"merging": MergingConfig("repair")}, "'merging.combine' is repair.*combine average"),
        ({"mixing": MixingConfig(2, chebyshev=True)}, "chebyshev' is true.*chebyshev false"),
        ({"optimizer": OptimizerConfig(on_merge="mix")}, "on_merge' is mix.*on_merge keep"),
    ],
)
def test_what_lets_a_neighbor_in_by_another_way_is_refused(
    settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=f"{complaint}, or exchange.robust none"):
        validate(asked("clip", method="dimat", **settings))
    validate(asked("none", method="dimat", **settings))


def test_auto_is_average_where_lies_are_expected_and_grams_where_not() -> None:
    by_class = DataConfig(split="by-class")
    found = {
        rule: make_setup(asked(rule, method="dimat", data=by_class)).config.merging.combine
        for rule in ("none", *RULES)
    }
    assert found == {"none": "gram", "clip": "average", "trimmed": "average"}


@pytest.mark.parametrize("name", ["dimat", "wa", "wm", "final-merge"])
def test_the_setting_comes_to_the_method_and_all_agents_must_have_it_alike(name: str) -> None:
    for apart in (False, True):
        method = make_method(asked("trimmed", method=name), name, apart=apart)
        assert vars(method)["robust"] == "trimmed"
        assert "robust='trimmed'" in repr(method)  # what dimat.Agent compares
    assert RunConfig(method=method).exchange.robust == "trimmed"  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
def test_a_run_goes_through(rule: str, tmp_path: Any) -> None:
    config = asked(rule, method="dimat", controls=("wa", "local"), out=str(tmp_path / "run"))
    result = dimat.run(config, progress=False)
    assert all(own.merged is not None for own in result.main.agents)
