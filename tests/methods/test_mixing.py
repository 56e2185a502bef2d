"""Several mixing steps in one round: powers of the mixing matrix, and Chebyshev's polynomials."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from tests.exchange.threads import peers_file
from tests.fork_server import ROOT
from tests.laws.graphs import connected_graphs
from tests.methods.agents import Agents, agents_of, irregular, merge
from tests.methods.lossy import Losses, merge_over

import dimat
from dimat.errors import ConfigError, TopologyError, TrainingError
from dimat.exchange import Traffic
from dimat.methods import Averaging, Dimat, Method, RoundContext, check_needs
from dimat.methods.gauge import GaugeId
from dimat.methods.rounds.final_merge import FinalMerge
from dimat.state import State, num_bytes
from dimat.testing.agents import known_network
from dimat.testing.methods import MERGES
from dimat.topology import Topology, build_topology, metropolis

Matrix = NDArray[np.float64]


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


def on(graph: nx.Graph[int]) -> Topology:
    return Topology("test", graph, metropolis(graph, np.ones(len(graph))))


def never() -> Any:
    raise AssertionError("nothing is matched here")


def points(topology: Topology, seed: int = 0) -> list[RoundContext]:
    """Agents of a few numbers each, with a running variance."""
    random = np.random.default_rng(seed)
    states: list[State] = [
        {"x": torch.from_numpy(random.normal(size=3)), "var": torch.from_numpy(random.random(2))}
        for _ in range(topology.num_agents)
    ]
    return [RoundContext(i, 1, s, topology, ["x"], never, never) for i, s in enumerate(states)]


def stacked(states: Sequence[Mapping[str, torch.Tensor]], key: str = "x") -> Matrix:
    return np.stack([s[key].numpy() for s in states])


def wa(steps: int, *, chebyshev: bool = False) -> Averaging:
    """Of any norm: states here are a few random numbers."""
    return Averaging(max_norm_ratio=None, mixing_steps=steps, chebyshev=chebyshev)


def mixed(method: Method, them: Sequence[RoundContext], key: str = "x") -> Matrix:
    return stacked([result.state for result in merge(method, them)[0]], key)


def polynomial(pi: Matrix, k: int) -> Matrix:
    """T_k(Π / λ) / T_k(1 / λ), by eigenvalues."""
    values, vectors = np.linalg.eigh(pi)
    unit, rate = np.eye(k + 1)[k], float(np.sort(np.abs(values))[-2])
    factors = chebyshev.chebval(values / rate, unit) / chebyshev.chebval(1 / rate, unit)
    return np.asarray((vectors * factors) @ vectors.T, np.float64)


def bound(rate: float, k: int) -> float:
    """1 / T_k(1 / λ)."""
    q = (1 - math.sqrt(1 - rate**2)) / rate if rate > 1e-6 else 0.0
    return 2 * q**k / (1 + q ** (2 * k))


# --- averaging ------------------------------------------------------------------------------------


@given(connected_graphs(), st.integers(1, 5))
@settings(max_examples=20)
def test_averaging_k_times_is_averaging_once_by_the_power_of_the_matrix(
    graph: nx.Graph[int], k: int
) -> None:
    them = points(on(graph))
    power = np.linalg.matrix_power(them[0].topology.pi, k)
    for key in ("x", "var"):
        expected = power @ stacked([me.state for me in them], key)
        found = mixed(wa(k), them, key)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("seed", range(2))
def test_accelerated_averaging_is_chebyshevs_polynomial_of_the_matrix(k: int, seed: int) -> None:
    them = points(on(irregular(seed)))
    expected = polynomial(them[0].topology.pi, k) @ stacked([me.state for me in them])
    found = mixed(wa(k, chebyshev=True), them)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@given(connected_graphs(), st.integers(1, 8))
@settings(max_examples=20)
def test_acceleration_keeps_the_mean_and_shrinks_disagreement_as_far_as_is_known(
    graph: nx.Graph[int], k: int
) -> None:
    them = points(on(graph))
    before = stacked([me.state for me in them])
    after = mixed(wa(k, chebyshev=True), them)
    np.testing.assert_allclose(after.mean(0), before.mean(0), rtol=1e-9, atol=1e-12)
    rate = them[0].topology.second_eigenvalue
    assert bound(rate, k) <= rate**k + 1e-12
    apart = [float(np.linalg.norm(x - x.mean(0))) for x in (before, after)]
    assert apart[1] <= bound(rate, k) * apart[0] * (1 + 1e-9) + 1e-12


def test_twelve_accelerated_steps_on_a_ring_of_twenty_do_more_than_thirty_plain_ones() -> None:
    them = points(build_topology("ring", 20).at(0))

    def left(method: Method) -> float:
        return float(np.linalg.norm(np.ptp(mixed(method, them), 0)))

    accelerated = left(wa(12, chebyshev=True))
    assert accelerated < left(wa(30)) < left(wa(12))


def test_running_statistics_are_never_extrapolated() -> None:
    """A variance of 0 next to one of 1 would become negative."""
    them = points(build_topology("ring", 6).at(0))
    them = [replace(me, state={**me.state, "var": torch.ones(2) * (me.agent == 0)}) for me in them]
    expected = mixed(wa(4), them, "var")
    np.testing.assert_array_equal(mixed(wa(4, chebyshev=True), them, "var"), expected)
    assert (expected >= 0).all()


def test_where_a_graph_falls_apart_for_a_round_acceleration_is_plain() -> None:
    graph = nx.Graph([(0, 1), (2, 3), (3, 4)])
    them = points(on(graph))
    plain, fast = (mixed(wa(4, chebyshev=c), them) for c in (False, True))
    np.testing.assert_array_equal(plain, fast)
    assert np.abs(plain - plain.mean(0)).max() > 0.1


def test_every_step_sends_a_state_on_every_edge() -> None:
    them = points(on(irregular(1)))
    _, traffic = merge(wa(3), them)
    for me, count in zip(them, traffic, strict=True):
        assert count == Traffic(*[3 * num_bytes(me.state) * len(me.neighbors)] * 2)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_in_the_last_round_there_may_be_other_steps(number: int) -> None:
    them = [replace(me, round=number, rounds=3) for me in points(on(irregular(1)))]
    for fast in (False, True):
        method = replace(wa(2, chebyshev=fast), final_steps=5)
        expected = wa(5 if number == 3 else 2, chebyshev=fast)
        np.testing.assert_array_equal(mixed(method, them), mixed(expected, them))
    endless = [replace(me, rounds=0) for me in them]
    np.testing.assert_array_equal(mixed(replace(wa(1), final_steps=5), endless), mixed(wa(1), them))


def test_in_a_loop_of_ones_own_no_round_is_the_last(tmp_path: Path) -> None:
    loop = dimat.Agent(
        torch.nn.Linear(2, 2),
        None,
        topology="ring",
        calibration=[torch.zeros(2, 2)],
        method=Averaging(final_steps=3),
        id=0,
        agents=1,
        peers=peers_file(tmp_path, 1),
        insecure=True,
    )
    with loop:
        assert [loop.context(number).rounds for number in (1, 2)] == [0, 0]


def test_the_table_in_the_docs_says_what_the_bounds_are() -> None:
    page = (ROOT / "docs" / "topologies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\.\d+) \| (\.\d+) \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for agents, steps, plain, accelerated in rows:
        rate = build_topology("ring", int(agents)).contraction
        assert rate ** int(steps) == pytest.approx(float(plain), abs=6e-4)
        assert bound(rate, int(steps)) == pytest.approx(float(accelerated), abs=6e-4)


# --- lost messages --------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_whatever_is_lost_plain_steps_stay_between_the_states_there_were(seed: int) -> None:
    random = np.random.default_rng(seed)
    them = points(on(irregular(2)), seed % 7)
    losses = Losses(lambda j, i, k: bool(random.random() < 0.5))
    found = stacked([r.state for r in merge_over(losses, wa(3), them)])
    before = stacked([me.state for me in them])
    assert (found <= before.max(0) + 1e-12).all()
    assert (found >= before.min(0) - 1e-12).all()


def test_who_is_heard_in_a_later_step_only_counts_as_mixed_in() -> None:
    them = points(on(nx.path_graph(2)))
    losses = Losses(lambda j, i, k: k == 0)
    for result in merge_over(losses, wa(2), them):
        away = torch.linalg.vector_norm(them[0].state["x"] - them[1].state["x"])
        assert result.disagreement == pytest.approx(math.sqrt(0.5) * float(away))


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("name", ["wa", "spread"])
def test_an_accelerated_merge_needs_every_message_and_says_whom_it_missed(
    own: Agents, name: str, step: int
) -> None:
    kind = Averaging if name == "wa" else Dimat
    method = kind(mixing_steps=3, chebyshev=True)
    assert not method.tolerant
    assert kind(mixing_steps=3).tolerant
    same = dict.fromkeys(range(3), GaugeId(0, 1))
    them = own.members(own.perturbed(3), nx.complete_graph(3), gauges=same)
    losses = Losses(lambda j, i, k: {i, j} == {0, 1} and k == step)
    with pytest.raises(TrainingError, match=r"nothing from agent [01], and this method needs"):
        merge_over(losses, method, them)


# --- dimat ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gauge", ["spread", "tree"])
@pytest.mark.parametrize("chebyshev", [False, True])
def test_in_one_unit_order_dimat_averages_as_often_as_plain_averaging(
    own: Agents, gauge: str, chebyshev: bool
) -> None:
    """Acceleration begins after the first step: that of dimat need not be an average."""
    states, k = own.perturbed(6), 4
    same = dict.fromkeys(range(6), GaugeId(0, 1))
    them = own.members(states, irregular(3), number=2, gauges=same)
    method = Dimat(gauge, mixing_steps=k, chebyshev=chebyshev)  # type: ignore[arg-type]
    found, traffic = merge(method, them)
    once, _ = merge(Averaging(), them)
    then = [replace(me, state=r.state) for me, r in zip(them, once, strict=True)]
    expected, _ = merge(Averaging(mixing_steps=k - 1, chebyshev=chebyshev), then)
    for a, b, first in zip(found, expected, once, strict=True):
        torch.testing.assert_close(a.state, b.state, rtol=1e-12, atol=1e-12)
        assert a.disagreement == pytest.approx(first.disagreement)
    _, less = merge(replace(method, mixing_steps=1), them)
    each = num_bytes(states[0]) + (24 if gauge == "spread" else 0)  # whose order it is in
    for me, often, seldom in zip(them, traffic, less, strict=True):
        assert often.sent_bytes - seldom.sent_bytes == (k - 1) * each * len(me.neighbors)


@pytest.mark.parametrize("chebyshev", [False, True])
def test_while_an_order_spreads_further_steps_keep_the_mean_of_all_that_are_in_one(
    own: Agents, chebyshev: bool
) -> None:
    """Agents of other orders leave each other out, at both ends of an edge."""
    states = own.shuffled(own.perturbed(6))
    them = own.members(states, irregular(4))
    once, _ = merge(Dimat("spread"), them)
    often, _ = merge(Dimat("spread", mixing_steps=5, chebyshev=chebyshev), them)
    orders = [result.gauge for result in once]
    assert orders == [result.gauge for result in often]
    assert 1 < len(set(orders)) < 6
    moved = 0.0
    for order in set(orders):
        here = [i for i, gauge in enumerate(orders) if gauge == order]
        for key in own.parameters:
            first, last = (
                torch.stack([results[i].state[key] for i in here]) for results in (once, often)
            )
            torch.testing.assert_close(last.mean(0), first.mean(0), rtol=1e-9, atol=1e-9)
            assert (
                float((last - last.mean(0)).norm()) <= float((first - first.mean(0)).norm()) + 1e-9
            )
            moved += float((last - first).norm())
    assert moved > 0.1


@pytest.mark.parametrize("combine", ["average", "repair", "regression", "gram"])
def test_an_average_of_fits_is_recalibrated_but_where_all_that_agents_saw_was_fitted(
    combine: str,
) -> None:
    own, same = agents_of("cnn"), dict.fromkeys(range(6), GaugeId(0, 1))
    them = own.members(own.perturbed(6), irregular(3), number=2, gauges=same)
    for steps, fitted in ((1, combine != "average"), (3, combine == "gram")):
        results, _ = merge(Dimat(combine=combine, mixing_steps=steps), them)
        assert [result.calibrated for result in results] == [fitted] * 6


LAWS = {
    "wa": Averaging(mixing_steps=3),
    "wa, accelerated": Averaging(mixing_steps=3, chebyshev=True),
    "spread": Dimat("spread", mixing_steps=3),
    "spread, accelerated": Dimat("spread", mixing_steps=3, chebyshev=True),
    "tree": Dimat("tree", sweeps=0, mixing_steps=3, chebyshev=True),
    "final-merge": FinalMerge("tree", sweeps=0, mixing_steps=3),
}


@pytest.mark.parametrize("name", list(LAWS))
def test_methods_that_mix_often_keep_the_laws_of_methods(name: str) -> None:
    for law in MERGES:
        law(LAWS[name], known_network("mlp"))


# --- what is refused ------------------------------------------------------------------------------


def test_matrices_that_are_not_symmetric_are_mixed_by_often_and_not_accelerated() -> None:
    ways = build_topology("star", 4, mixing="shard-size", shard_sizes=[1, 2, 3, 4]).at(0)
    ring = build_topology("one-peer-exponential", 4).at(0)
    around = np.array([[0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.9, 0.05, 0.05]])
    turning = Topology("turning", nx.complete_graph(3), around)  # doubly stochastic, both ways
    for method in (Averaging, Dimat):
        for topology in (ways, ring, turning):
            check_needs("it", method(mixing_steps=3), topology)
            with pytest.raises(TopologyError, match=r"symmetric mixing matrix.*entries \(0, \d\)"):
                check_needs("it", method(mixing_steps=3, chebyshev=True), topology)


def test_acceleration_spreads_agents_of_a_matrix_that_is_not_symmetric() -> None:
    """Its eigenvalues are not real, so that the polynomial is not small there: it is refused."""
    around = np.array([[0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.9, 0.05, 0.05]])
    them = points(Topology("turning", nx.complete_graph(3), around))
    before, after = stacked([me.state for me in them]), mixed(wa(13, chebyshev=True), them)
    assert np.ptp(after, 0).max() > np.ptp(before, 0).max()


def test_integer_parameters_stay_as_they_are() -> None:
    them = points(on(irregular(1)))
    whole = {"count": torch.tensor([3, 7])}
    them = [replace(me, state={**me.state, **whole}, parameters=["x", "count"]) for me in them]
    for result in merge(wa(4, chebyshev=True), them)[0]:
        assert torch.equal(result.state["count"], whole["count"])


def test_pairwise_orders_are_mixed_once() -> None:
    with pytest.raises(ConfigError, match=r"'mixing.steps' is 2, and 'matching.gauge' is 'pairw"):
        Dimat("pairwise", mixing_steps=2)
    with pytest.raises(ConfigError, match=r"'mixing.final_steps' is 4, and 'matching.gauge' is"):
        Dimat("pairwise", final_steps=4)
    Dimat("pairwise")
