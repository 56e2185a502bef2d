"""Combiners without alignment: what ``wa`` does with them, and that it does so only if asked."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import pytest
import torch
from tests.merging.test_gram import one_order
from tests.methods.agents import Agents, agents_of, merge
from tests.methods.lossy import Losses, merge_over

from dimat.errors import ConfigError
from dimat.experiment.config.config import MergingConfig, RunConfig
from dimat.experiment.config.methods import check_options, make_method
from dimat.merging import COMBINERS
from dimat.methods import Averaging, Dimat
from dimat.symmetry import Analysis
from dimat.testing import check_method


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


@pytest.mark.parametrize("combine", list(COMBINERS))
def test_of_agents_in_one_order_wa_makes_what_dimat_does(own: Agents, combine: str) -> None:
    graph: nx.Graph[int] = nx.cycle_graph(4)
    them = own.members(own.perturbed(4), graph, gauges=one_order(own, graph))
    plain, sent = merge(Averaging(combine=combine), them)
    aligned, _ = merge(Dimat("spread", combine=combine), them)
    for a, b in zip(plain, aligned, strict=True):
        torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)
        assert (a.calibrated, a.disagreement) == (b.calibrated, b.disagreement)
        assert a.permutation is None
    _, few = merge(Averaging(), them)
    assert (sent[0].sent_bytes > few[0].sent_bytes) == (combine in ("gram", "fisher"))


def test_where_units_are_in_other_places_wa_combines_them_as_they_stand(own: Agents) -> None:
    graph: nx.Graph[int] = nx.complete_graph(2)
    states = own.shuffled(own.perturbed(2, by=0.0))
    merged, _ = merge(Averaging(combine="fisher"), own.members(states, graph))
    aligned, _ = merge(Dimat("tree", combine="fisher"), own.members(states, graph))
    assert aligned[0].disagreement == pytest.approx(0, abs=1e-6)
    assert (merged[0].disagreement or 0) > 1e-3


def test_it_keeps_the_laws_of_methods() -> None:
    check_method(Averaging(combine="gram"))


def test_statistics_that_are_lost_leave_the_average(own: Agents) -> None:
    graph: nx.Graph[int] = nx.complete_graph(3)
    them = own.members(own.perturbed(3), graph)
    plain, _ = merge(Averaging(), them)
    lost = Losses(lambda j, i, step: (j, step) == (2, 1))
    found = merge_over(lost, Averaging(combine="gram"), them)
    torch.testing.assert_close(found[0].state, plain[0].state, rtol=0, atol=0)
    assert [result.calibrated for result in found] == [False, False, True]


def test_averages_that_follow_leave_a_fit_of_own_images_uncalibrated(own: Agents) -> None:
    graph: nx.Graph[int] = nx.complete_graph(3)
    them = own.members(own.perturbed(3), graph)
    for combine, calibrated in (("repair", False), ("gram", True)):
        merged, _ = merge(Averaging(combine=combine, mixing_steps=2), them)
        assert merged[0].calibrated is calibrated


def test_the_plain_average_asks_for_no_graph(own: Agents) -> None:
    def never() -> Analysis:
        raise AssertionError("the model was looked at")

    graph: nx.Graph[int] = nx.complete_graph(2)
    them = [replace(me, analysis=never) for me in own.members(own.perturbed(2), graph)]
    merge(Averaging(), them)
    assert not Averaging().needs_graph
    assert Averaging(combine="gram").needs_graph


def test_as_a_control_it_stays_plain_unless_asked_by_its_own_option() -> None:
    config = RunConfig(merging=MergingConfig("gram"), controls=("wa",))
    assert make_method(config, "dimat").combiner == "gram"
    assert make_method(config, "wa").combiner == "average"
    asked = replace(config, method_options=("combine=fisher",))
    check_options(asked)
    assert make_method(asked, "dimat").combiner == "gram"
    assert make_method(asked, "wa").combiner == "fisher"


def test_a_combiner_that_there_is_not_or_that_believes_liars_is_refused() -> None:
    with pytest.raises(ConfigError, match="'combine' is 'gra'.*did you mean 'gram'"):
        Averaging(combine="gra")
    with pytest.raises(ConfigError, match="'method_options combine' is gram.*combine average"):
        Averaging(combine="gram", robust="clip")
