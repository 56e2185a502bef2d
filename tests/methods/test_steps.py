"""Methods that exchange while they train, against closed forms on quadratics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from tests.methods.making import made

from dimat.methods import (
    METHODS,
    Consensus,
    CrossGradients,
    GradientTracking,
    LocalDecentralized,
    LocalGradientTracking,
    Method,
    MomentumConsensus,
    QuasiGlobalMomentum,
    StochasticGradientPush,
    Swarm,
)
from dimat.methods.pairs import pairs
from dimat.methods.steps.cga import project
from dimat.testing.agents import LR, D, Quadratic, Vector
from dimat.testing.agents import irregular as irregular_topology
from dimat.testing.agents import places as stacked
from dimat.testing.agents import quadratics as agents
from dimat.testing.agents import take_steps as run
from dimat.testing.methods import STEPS
from dimat.topology import Topology, build_topology

STEPWISE = [name for name, kind in METHODS.items() if kind.exchanges == "steps"]


def gradients(them: Sequence[Quadratic], x: Vector) -> Vector:
    return np.stack([me.curvature @ (x[i] - me.minimum) for i, me in enumerate(them)])


def optimum(them: Sequence[Quadratic]) -> Vector:
    """The minimum of the mean loss."""
    total = sum(me.curvature for me in them)
    return np.linalg.solve(total, sum(me.curvature @ me.minimum for me in them))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", ["combine", "adapt"])
def test_consensus_follows_the_closed_form_in_both_orders(order: str, seed: int) -> None:
    network = irregular_topology(seed)
    them = agents(network, seed)
    x, pi = stacked(them), network.pi
    run(made("cdsgd", order=order), them, 20)
    for _ in range(20):
        g = gradients(them, x)
        x = pi @ x - LR * g if order == "combine" else pi @ (x - LR * g)
    np.testing.assert_allclose(stacked(them), x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", ["combine", "adapt"])
def test_momentum_consensus_at_a_constant_rate_is_consensus_with_momentum_sgd(order: str) -> None:
    network = irregular_topology()
    ours, theirs = agents(network, momentum=0.6), agents(network, momentum=0.6)
    run(made("cdmsgd", order=order), ours, 7)
    run(made("cdsgd", order=order), theirs, 7)
    np.testing.assert_array_equal(stacked(ours), stacked(theirs))


def settled(them: Sequence[Quadratic], rate: float) -> Vector:
    """Where agents that adapt, then combine do not move any more: x = Π (x - rate · g(x))."""
    pi, n = them[0].topology.pi, len(them)
    steps = np.zeros((n, D, n, D))
    for i, me in enumerate(them):
        steps[i, :, i] = rate * me.curvature
    mixing = np.kron(pi, np.eye(D))
    slope = steps.reshape(n * D, n * D)
    right = mixing @ slope @ np.concatenate([me.minimum for me in them])
    return np.linalg.solve(np.eye(n * D) - mixing + mixing @ slope, right).reshape(n, D)


def test_quasi_global_momentum_settles_where_consensus_does_and_local_momentum_farther_off() -> (
    None
):
    """By 1 / (1 - μ) in the rate: a velocity of own gradients goes on along one's own shard."""
    network, mu = irregular_topology(3), 0.8
    global_, local = agents(network), agents(network, momentum=mu)
    run(QuasiGlobalMomentum(mu), global_, 800)
    run(MomentumConsensus("adapt"), local, 800)
    best = optimum(global_)
    near, far = settled(global_, LR), settled(local, LR / (1 - mu))
    assert np.abs(far - best).max() > 2 * np.abs(near - best).max() > 0.02
    np.testing.assert_allclose(stacked(global_), near, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(stacked(local), far, rtol=1e-7, atol=1e-9)


def test_quasi_global_momentum_is_none_of_the_optimizers_and_of_factor_0_none_at_all() -> None:
    network = irregular_topology(1)
    ours, theirs = agents(network, momentum=0.9), agents(network)
    run(QuasiGlobalMomentum(0.0), ours, 9)
    run(Consensus("adapt"), theirs, 9)
    np.testing.assert_array_equal(stacked(ours), stacked(theirs))
    faster = agents(network)
    run(QuasiGlobalMomentum(0.9), faster, 9)
    assert np.abs(stacked(faster) - stacked(theirs)).max() > 1e-2


def test_quasi_global_momentum_outlasts_a_rate_of_0() -> None:
    them = agents(irregular_topology(1))
    run(QuasiGlobalMomentum(0.9), them, 3)
    kept = [me.kept["momentum"]["x"].clone() for me in them]
    for me in them:
        me.lr = 0.0
    before = stacked(them)
    run(QuasiGlobalMomentum(0.9), them, 1)
    np.testing.assert_allclose(stacked(them), them[0].topology.pi @ before, rtol=1e-12)
    torch.testing.assert_close([me.kept["momentum"]["x"] for me in them], kept, rtol=0, atol=0)


@pytest.mark.parametrize("order", ["combine", "adapt"])
@pytest.mark.parametrize("name", ["cdsgd", "cdmsgd"])
def test_disagreement_without_gradients_shrinks_by_the_second_eigenvalue(
    name: str, order: str
) -> None:
    """However large the momentum, which has nothing to go along; on the ring of five by .539."""
    network = build_topology("ring", 5)
    values, vectors = np.linalg.eigh(network.pi)
    assert values[-2] == pytest.approx(0.5393, abs=1e-4)
    them = agents(network, momentum=0.9)
    for me in them:
        me.curvature = np.zeros((D, D))
        me.x = vectors[me.index, -2:] @ np.arange(1.0, 1 + 2 * D).reshape(2, D)
    for _ in range(12):
        before = stacked(them) - stacked(them).mean(0)
        run(made(name, order=order), them, 1)
        after = stacked(them) - stacked(them).mean(0)
        np.testing.assert_allclose(after, values[-2] * before, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("order", ["combine", "adapt"])
def test_gradient_tracking_follows_the_closed_form_in_both_orders(order: str) -> None:
    network = irregular_topology(1)
    them = agents(network)
    x, pi = stacked(them), network.pi
    run(made("gradient-tracking", order=order), them, 20)
    g = gradients(them, x)
    y = g
    for k in range(20):
        if k:
            new = gradients(them, x)
            y, g = pi @ y + new - g, new
        x = pi @ x - LR * y if order == "combine" else pi @ (x - LR * y)
    np.testing.assert_allclose(stacked(them), x, rtol=1e-9, atol=1e-11)


def test_adapting_first_on_the_full_graph_is_gradient_descent_on_everybodys_loss() -> None:
    """Large-batch SGD: one step along the mean of all gradients."""
    network = build_topology("full", 5)
    them = agents(network)
    start = them[0].x
    for me in them:
        me.x = start.copy()
    x = start
    run(Consensus("adapt"), them, 30)
    for _ in range(30):
        x = x - LR * gradients(them, np.stack([x] * 5)).mean(0)
    np.testing.assert_allclose(stacked(them), np.stack([x] * 5), rtol=1e-10, atol=1e-12)


def test_push_sum_on_a_doubly_stochastic_matrix_is_consensus_that_adapts_first() -> None:
    network = irregular_topology(2)
    ours, theirs = agents(network, momentum=0.5), agents(network, momentum=0.5)
    run(StochasticGradientPush(), ours, 15)
    run(Consensus("adapt"), theirs, 15)
    np.testing.assert_allclose(stacked(ours), stacked(theirs), rtol=1e-12, atol=1e-13)


def lopsided(n: int = 5) -> Topology:
    """A directed graph in which agents are heard by different numbers of others."""
    graph: nx.DiGraph[int] = nx.DiGraph([(i, (i + 1) % n) for i in range(n)])
    graph.add_edges_from([(0, 2), (0, 3), (1, 3)])
    pi = np.zeros((n, n))
    for j in range(n):
        for i in [j, *graph.successors(j)]:
            pi[i, j] = 1 / (1 + graph.out_degree(j))
    return Topology("lopsided", graph, pi)


def test_push_sum_weights_converge_and_agents_agree_on_a_directed_graph() -> None:
    network = lopsided()
    assert not network.doubly_stochastic
    them = agents(network)
    for me in them:
        me.lr = 0.0
    mean = stacked(them).mean(0)
    run(StochasticGradientPush(), them, 200)
    values, vectors = np.linalg.eig(network.pi)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    weights = np.array([float(me.kept["push"]["weight"]) for me in them])
    np.testing.assert_allclose(weights, 5 * stationary / stationary.sum(), rtol=1e-9)
    assert weights.max() > 1.5 * weights.min()
    np.testing.assert_allclose(stacked(them), np.stack([mean] * 5), rtol=1e-9)


def test_push_sum_follows_its_definition_by_numerators_on_a_directed_graph() -> None:
    network = lopsided()
    them = agents(network)
    x, w, pi = stacked(them), np.ones(5), network.pi
    run(StochasticGradientPush(), them, 25)
    for _ in range(25):
        z = x / w[:, None]
        x, w = pi @ (x - LR * gradients(them, z)), pi @ w
    np.testing.assert_allclose(stacked(them), x / w[:, None], rtol=1e-9, atol=1e-11)


def test_push_sum_reaches_the_optimum_of_the_mean_loss_and_averaging_by_rows_does_not() -> None:
    network = lopsided()
    them = agents(network)
    run_decaying(StochasticGradientPush(), them, 1000)
    np.testing.assert_allclose(stacked(them), np.stack([optimum(them)] * 5), atol=2e-2)
    rows = network.pi / network.pi.sum(1, keepdims=True)
    plain = agents(replace(network, pi=rows))
    run_decaying(Consensus("adapt"), plain, 1000)
    assert np.abs(stacked(plain) - optimum(plain)).max() > 0.1


def run_decaying(method: Method, them: Sequence[Quadratic], steps: int) -> None:
    for k in range(steps):
        for me in them:
            me.lr = 0.3 / (1 + k / 30)
        run(method, them, 1)


def test_gradient_tracking_reaches_the_optimum_where_consensus_stays_biased() -> None:
    network = irregular_topology(3)
    tracking, consensus = agents(network), agents(network)
    best = optimum(tracking)
    run(GradientTracking(), tracking, 1000)
    run(Consensus(), consensus, 1000)
    assert np.abs(stacked(tracking) - best).max() < 1e-8
    assert np.abs(stacked(consensus) - best).max() > 1e-2


def test_the_mean_of_all_trackers_is_the_mean_of_the_last_gradients() -> None:
    network = irregular_topology(3)
    them = agents(network)
    for _ in range(5):
        expected = gradients(them, stacked(them)).mean(0)
        run(GradientTracking(), them, 1)
        found = np.mean([me.kept["tracker"]["x"].numpy() for me in them], 0)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_tracking_with_local_steps_follows_its_paper_by_displacements() -> None:
    """K-GT, Algorithm 1: z is the way that the local steps went, by their number and rate."""
    network, k = irregular_topology(1), 3
    them = agents(network)
    x, pi, c = stacked(them), network.pi, np.zeros((6, D))
    run(LocalGradientTracking(k - 1), them, 7 * k)
    for _ in range(7):
        end = x
        for _ in range(k):
            end = end - LR * (gradients(them, end) + c)
        z = (x - end) / (k * LR)
        x, c = pi @ (x - k * LR * z), c - z + pi @ z
    np.testing.assert_allclose(stacked(them), x, rtol=1e-9, atol=1e-11)


def test_tracking_with_one_local_step_is_gradient_tracking_that_adapts_first() -> None:
    network = irregular_topology(1)
    ours, theirs = agents(network, momentum=0.6), agents(network, momentum=0.6)
    run(LocalGradientTracking(0), ours, 20)
    run(GradientTracking("adapt"), theirs, 20)
    np.testing.assert_allclose(stacked(ours), stacked(theirs), rtol=1e-9, atol=1e-11)


def test_tracking_with_local_steps_reaches_the_optimum_where_local_steps_stay_biased() -> None:
    """The same local steps and exchanges; corrections that sum to 0 at any time."""
    network = irregular_topology(3)
    tracking, plain = agents(network), agents(network)
    best = optimum(tracking)
    for _ in range(10):
        run(LocalGradientTracking(3), tracking, 4)
        total = sum(me.kept["correction"]["x"] for me in tracking)
        torch.testing.assert_close(total, torch.zeros(D).double(), rtol=0, atol=1e-12)
    run(LocalGradientTracking(3), tracking, 1000)
    run(LocalDecentralized("adapt", 3, 1), plain, 1040)
    assert np.abs(stacked(tracking) - best).max() < 1e-6
    assert np.abs(stacked(plain) - best).max() > 1e-2


def test_a_projected_gradient_is_what_the_quadratic_program_says() -> None:
    """Against the optimality conditions, for random gradients in more dimensions than agents."""
    random = np.random.default_rng(0)
    worked = 0
    for _ in range(40):
        cross = [
            {"a": torch.from_numpy(random.normal(size=(2, 3))), "b": torch.from_numpy(v)}
            for v in random.normal(size=(4, 2))
        ]
        own = cross[0]
        flat = np.stack([np.concatenate([g["a"].numpy().ravel(), g["b"].numpy()]) for g in cross])
        found = project(own, cross)
        got = np.concatenate([found["a"].numpy().ravel(), found["b"].numpy()])
        slack = flat @ got
        assert slack.min() > -1e-9  # feasible
        multipliers, *_ = np.linalg.lstsq(flat.T, got - flat[0], rcond=None)
        np.testing.assert_allclose(flat.T @ multipliers, got - flat[0], atol=1e-9)
        assert multipliers.min() > -1e-9  # of the right sign
        assert np.abs(multipliers * slack).max() < 1e-8  # complementary
        worked += bool(np.abs(got - flat[0]).max() > 1e-6)
    assert worked > 5


def test_cross_gradients_that_agree_leave_the_step_of_consensus() -> None:
    network = irregular_topology(1)
    ours, theirs = agents(network), agents(network)
    for me in (*ours, *theirs):  # one loss for all, and everyone at one point
        me.curvature, me.minimum, me.x = np.eye(D), np.zeros(D), np.ones(D)
    run(CrossGradients(), ours, 5)
    run(Consensus(), theirs, 5)
    np.testing.assert_allclose(stacked(ours), stacked(theirs), rtol=1e-12)


def test_cross_gradients_are_gradients_of_the_neighbors_losses_at_our_model() -> None:
    network = irregular_topology(4)
    them = agents(network)
    x = stacked(them)
    run(CrossGradients(), them, 1)
    for i, me in enumerate(them):
        hear = [i, *network.neighbors(i)]
        cross = [
            {"x": torch.from_numpy(them[j].curvature @ (x[i] - them[j].minimum))} for j in hear
        ]
        step = project(cross[0], cross)["x"].numpy()
        np.testing.assert_allclose(me.x, network.pi[i] @ x - LR * step, rtol=1e-9, atol=1e-11)


def test_a_swarm_meets_in_disjoint_pairs_that_all_know_and_keeps_the_mean() -> None:
    network = irregular_topology(5)
    met = set()
    for time in range(60):
        found = pairs(network, 1, time)
        assert all(found[j] == i for i, j in found.items())
        assert all(network.graph.has_edge(i, j) for i, j in found.items())
        left = set(range(6)) - set(found)
        assert not any(network.graph.has_edge(i, j) for i, j in itertools.combinations(left, 2))
        met |= {(min(p), max(p)) for p in found.items()}
    assert met == {(min(e), max(e)) for e in network.graph.edges}
    them = agents(network)
    for me in them:
        me.lr = 0.0
    mean = stacked(them).mean(0)
    spread = np.ptp(stacked(them), 0).max()
    run(Swarm(0, 1), them, 60)
    np.testing.assert_allclose(stacked(them).mean(0), mean, rtol=1e-10)
    assert np.ptp(stacked(them), 0).max() < 0.05 * spread


def test_a_swarm_is_quiet_between_meetings() -> None:
    network = irregular_topology(5)
    them = agents(network)
    size = sum(v.numel() * v.element_size() for v in them[0].state().values())
    traffic = run(Swarm(2, 0), them, 9)
    meetings = [len(pairs(network, 0, time)) for time in (2, 5, 8)]
    assert sum(count.sent_bytes for count in traffic) == size * sum(meetings)


def test_local_decentralized_sgd_takes_spells_of_local_and_of_consensus_steps() -> None:
    network = irregular_topology(1)
    them = agents(network)
    x, pi = stacked(them), network.pi
    run(LocalDecentralized("adapt", 3, 2), them, 11)
    for k in range(11):
        x = x - LR * gradients(them, x)
        if k % 5 >= 3:
            x = pi @ x
    np.testing.assert_allclose(stacked(them), x, rtol=1e-10, atol=1e-12)


def test_spells_without_local_steps_are_consensus() -> None:
    network = irregular_topology(1)
    ours, theirs = agents(network), agents(network)
    run(LocalDecentralized("combine", 0, 1), ours, 4)
    run(Consensus(), theirs, 4)
    np.testing.assert_array_equal(stacked(ours), stacked(theirs))


# --- what all of them have in common --------------------------------------------------------------


@pytest.mark.parametrize("law", STEPS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", STEPWISE)
def test_every_method_keeps_the_laws_in_steps(name: str, law: Callable[[Method], None]) -> None:
    law(METHODS[name]())


@pytest.mark.parametrize("name", STEPWISE)
def test_agents_with_one_loss_at_one_point_stay_together_and_descend(name: str) -> None:
    network = irregular_topology(2)
    them = agents(network)
    for me in them:
        me.curvature, me.minimum, me.x = np.eye(D), np.zeros(D), np.ones(D)
    run(made(name, momentum=0.0), them, 30)  # agents here have plain SGD
    np.testing.assert_allclose(stacked(them), np.full((6, D), 0.95**30), rtol=1e-9)


@pytest.mark.parametrize("name", STEPWISE)
def test_bytes_are_counted_on_every_edge(name: str) -> None:
    network = irregular_topology(2)
    them = agents(network)
    traffic = run(made(name, quiet_steps=1), them, 10)
    assert sum(t.sent_bytes for t in traffic) == sum(t.received_bytes for t in traffic)
    state, gradient, weight = 8 * D + 8, 8 * D, 8
    if name == "swarm":
        return  # who meets is drawn; counted above
    each = {
        "cdsgd": 10 * state,
        "cdmsgd": 10 * state,
        "ldsgd": 5 * state,
        "qg-momentum": 10 * state,
        "k-gt": 5 * (state + gradient),
        "sgp": 10 * (state + weight),
        "cga": 10 * (state + gradient),
        "gradient-tracking": 10 * state + 9 * gradient,
    }[name]
    for i, count in enumerate(traffic):
        assert count.sent_bytes == each * len(network.neighbors(i))


@pytest.mark.parametrize("name", STEPWISE)
def test_graphs_that_change_are_followed_step_by_step(name: str) -> None:
    """On a graph whose edges drop out agents still agree, where nothing else moves them."""
    network = build_topology("ring", 6, dropout=0.4)
    assert len({network.at(time).pi.tobytes() for time in range(20)}) > 5
    them = agents(network)
    for me in them:
        me.lr = 1e-12
    mean = stacked(them).mean(0)
    run(made(name, quiet_steps=0), them, 150)
    np.testing.assert_allclose(stacked(them), np.stack([mean] * 6), atol=1e-3)
