"""Merges without messages that were lost: what is lost an agent takes for itself."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.graphs import PAW, connected_graphs
from tests.methods.agents import Agents, agents_of, irregular, merge
from tests.methods.lossy import Losses, merge_over
from tests.methods.making import made
from tests.methods.test_steps import STEPWISE, agents, irregular_topology

from dimat.errors import StructureError, TrainingError
from dimat.exchange import Message, Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.methods import METHODS, Averaging, Dimat, Method, RoundContext, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.topology import Topology, metropolis

TOLERANT = {
    "local": METHODS["local"](),
    "wa": METHODS["wa"](),
    "wa-mix": METHODS["wa"](mix_memory=True),
    "wm-mix": METHODS["wm"](mix_memory=True),
    "spread": Dimat("spread"),
    "spread-gram": Dimat("spread", combine="gram"),
    "spread-mix": Dimat("spread", mix_memory=True),
    "pairwise-mix": Dimat("pairwise", mix_memory=True),
    "final-merge": METHODS["final-merge"](gauge="spread"),
}


@pytest.fixture(scope="module")
def own() -> Agents:
    return agents_of("mlp")


@pytest.fixture(params=list(TOLERANT))
def method(request: pytest.FixtureRequest) -> Method:
    return TOLERANT[request.param]


def members(own: Agents, graph: nx.Graph[int], gauge: GaugeId | None = None) -> list[RoundContext]:
    """Shuffled agents, each with an optimizer memory that is a copy of its parameters."""
    states = own.shuffled(own.perturbed(len(graph)))
    memories = [{"exp_avg": {k: s[k] for k in own.parameters}} for s in states]
    return own.members(states, graph, gauges=dict.fromkeys(graph, gauge), memories=memories)


def same(first: RoundResult, second: RoundResult) -> None:
    """Equal bit for bit, in all that an agent takes over."""
    torch.testing.assert_close(first.state, second.state, rtol=0, atol=0)
    torch.testing.assert_close(first.memory, second.memory, rtol=0, atol=0)
    assert (first.gauge, first.disagreement) == (second.gauge, second.disagreement)


# --- weights --------------------------------------------------------------------------------------


@given(connected_graphs(), st.data())
def test_a_row_sums_to_1_whoever_is_lost_and_is_as_it_was_if_nobody_is(
    graph: nx.Graph[int], data: st.DataObject
) -> None:
    n = len(graph)
    topology = Topology("test", graph, metropolis(graph, np.ones(n)))
    for i in range(n):
        me = RoundContext(i, 1, {}, topology, [], lambda: None, list)  # type: ignore[arg-type,return-value]
        heard = [j for j in me.neighbors if data.draw(st.booleans())]
        found = me.weights_of(heard)
        assert sum(found) == pytest.approx(1, abs=1e-12)
        assert found[1:] == [
            w for j, w in zip(me.neighbors, me.weights[1:], strict=True) if j in heard
        ]
        assert me.weights_of(me.neighbors) == me.weights
        assert me.weights_of([]) == [1.0]


def test_who_heard_nobody_has_a_weight_of_exactly_1_whatever_rounding_says() -> None:
    pi = np.array([[0.8, 0.2, 0.0], [0.2, 0.1, 0.7], [0.0, 0.7, 0.3]])
    assert pi[1, 1] + (pi[1, 0] + pi[1, 2]) < 1
    topology = Topology("test", nx.path_graph(3), pi)
    me = RoundContext(1, 1, {}, topology, [], lambda: None, list)  # type: ignore[arg-type,return-value]
    assert me.weights_of([]) == [1.0]


@settings(max_examples=25)
@given(connected_graphs(), st.integers(0, 2**32 - 1))
def test_where_both_ends_lose_each_other_averaging_keeps_the_mean_of_all(
    graph: nx.Graph[int], seed: int
) -> None:
    n, random = len(graph), np.random.default_rng(seed)
    gone = {frozenset(edge) for edge in graph.edges if random.random() < 0.5}
    states = [{"x": torch.from_numpy(random.normal(size=3))} for _ in range(n)]
    topology = Topology("test", graph, metropolis(graph, np.ones(n)))
    them = [
        RoundContext(i, 1, s, topology, ["x"], lambda: None, list) for i, s in enumerate(states)
    ]  # type: ignore[arg-type,return-value]
    merged = merge_over(Losses(lambda i, j, _: frozenset((i, j)) in gone), Averaging(), them)
    mean = torch.stack([s["x"] for s in states]).mean(0)
    torch.testing.assert_close(torch.stack([m.state["x"] for m in merged]).mean(0), mean)


@pytest.mark.parametrize("seed", range(3))
def test_averaging_is_the_dense_product_with_what_is_lost_put_on_the_diagonal(
    own: Agents, seed: int
) -> None:
    """One-sided losses too: who is not heard may still hear."""
    graph, random = irregular(seed), np.random.default_rng(seed)
    arrives = random.random((6, 6)) < 0.5
    states = own.perturbed(6)
    them = own.members(states, graph)
    merged = merge_over(Losses(lambda j, i, _: not arrives[i, j]), Averaging(), them)
    pi = np.where(arrives, them[0].topology.pi, 0.0)
    np.fill_diagonal(pi, 0.0)
    np.fill_diagonal(pi, 1 - pi.sum(1))
    for key, value in states[0].items():
        if value.is_floating_point():
            dense = torch.tensordot(torch.from_numpy(pi), torch.stack([s[key] for s in states]), 1)
            torch.testing.assert_close(torch.stack([m.state[key] for m in merged]), dense)


# --- every tolerant method ------------------------------------------------------------------------


def test_what_is_tolerant_is_known_of_every_method() -> None:
    for gauge, more in (("tree", set()), ("pairwise", {"dimat", "final-merge"})):
        found = {n for n in METHODS if made(n, gauge=gauge).tolerant}
        assert found == {"local", "centralized", "wa", "wm"} | more
    assert Dimat("spread").tolerant
    assert not Dimat("pairwise", "pooled").tolerant


def test_where_nothing_is_lost_it_is_the_same_merge_bit_for_bit(
    own: Agents, method: Method
) -> None:
    them, losses = members(own, PAW), Losses()
    for a, b in zip(merge_over(losses, method, them), merge(method, them)[0], strict=True):
        same(a, b)
    assert losses.refused == []


@pytest.mark.parametrize("deaf", range(4))
def test_who_hears_nobody_stays_as_it_is_bit_for_bit(
    own: Agents, method: Method, deaf: int
) -> None:
    them = members(own, PAW)
    merged = merge_over(Losses(lambda j, i, k: i == deaf), method, them)[deaf]
    torch.testing.assert_close(merged.state, dict(them[deaf].state), rtol=0, atol=0)
    assert merged.disagreement is None
    assert merged.permutation is None
    if merged.memory is not None:
        torch.testing.assert_close(merged.memory, dict(them[deaf].memory), rtol=0, atol=0)


MIXING = [name for name in TOLERANT if name.endswith("-mix")]


@pytest.mark.parametrize("name", MIXING)
def test_a_memory_whose_state_was_lost_is_left_out(own: Agents, name: str) -> None:
    """Nobody knows how its units move. A memory that is a copy merges to what the state does."""
    them, gone = members(own, irregular(1)), np.random.default_rng(5).random((6, 6)) < 0.5
    for m in merge_over(Losses(lambda j, i, k: k == 0 and gone[i, j]), TOLERANT[name], them):
        assert m.memory is not None
        torch.testing.assert_close(m.memory["exp_avg"], {k: m.state[k] for k in own.parameters})


@pytest.mark.parametrize("name", MIXING)
def test_a_memory_that_is_lost_counts_as_ones_own(own: Agents, name: str) -> None:
    """And the state, which was not lost, is that of a merge without losses."""
    gone = np.random.default_rng(5).random((6, 6)) < 0.5
    them = members(own, irregular(1), GaugeId(0, 1))
    found = merge_over(Losses(lambda j, i, k: k == 1 and gone[i, j]), TOLERANT[name], them)
    both = merge_over(Losses(lambda j, i, k: bool(gone[i, j])), TOLERANT[name], them)
    for a, b, c in zip(found, both, merge(TOLERANT[name], them)[0], strict=True):
        torch.testing.assert_close(a.memory, b.memory, rtol=0, atol=0)
        torch.testing.assert_close(a.state, c.state, rtol=0, atol=0)


# --- messages that must not be used ---------------------------------------------------------------


def nan(state: Message) -> Message:
    key = next(iter(state))
    return {**state, key: torch.full_like(state[key], torch.nan)}


def without(state: Message) -> Message:
    key = next(iter(state))
    return {k: v for k, v in state.items() if k != key}


def times(factor: float) -> Callable[[Message], Message]:
    return lambda state: {k: v * factor if v.is_floating_point() else v for k, v in state.items()}


SPOILT = {
    "nan": (nan, "state from agent 2: '.*' has .* NaN or infinite"),
    "misshapen": (without, "state from agent 2 does not fit: it lacks"),
    "large": (times(10), "state from agent 2: its parameters have norm"),
    "small": (times(0.1), "state from agent 2: its parameters have norm"),
}


@pytest.mark.parametrize("how", list(SPOILT))
@pytest.mark.parametrize("name", ["wa", "wm", "spread", "pairwise", "final-merge"])
def test_what_must_not_be_used_is_refused_and_it_is_as_if_it_were_lost(
    own: Agents, name: str, how: str
) -> None:
    kind = name if name in METHODS else "dimat"
    gauge = "pairwise" if name == "pairwise" else "spread"
    method = made(kind, gauge=gauge, max_norm_ratio=3.0)
    spoil = SPOILT[how][0]
    them = members(own, PAW)
    losses = Losses(spoilt=lambda j, i, k, m: spoil(m) if j == 2 else m)
    found = merge_over(losses, method, them)
    for a, b in zip(found, merge_over(Losses(lambda j, i, k: j == 2), method, them), strict=True):
        same(a, b)
    assert [(i, j) for i, j, _ in sorted(losses.refused)] == [(0, 2), (1, 2), (3, 2)]
    assert all("agent 2" in why for _, _, why in losses.refused)


@pytest.mark.parametrize("how", list(SPOILT))
def test_where_nothing_may_be_lost_it_stops_the_round(own: Agents, how: str) -> None:
    spoil, complaint = SPOILT[how]

    def lying(me: RoundContext) -> Talk[None]:
        yield Step(dict.fromkeys(me.neighbors, spoil(me.state)), me.neighbors)

    them = members(own, PAW)
    talks = [Averaging(max_norm_ratio=3.0).merge(me) for me in them]
    talks[2] = lying(them[2])  # type: ignore[call-overload]
    with pytest.raises(StructureError, match=complaint):
        run_all(talks, [Traffic() for _ in them])


def test_without_a_limit_any_norm_is_taken(own: Agents) -> None:
    losses = Losses(spoilt=lambda j, i, k, m: times(1e3)(m) if j == 2 else m)
    merge_over(losses, Averaging(max_norm_ratio=None), members(own, PAW))
    assert losses.refused == []


@pytest.mark.parametrize("value", [[1], [-1, 1], [0, 0], [0.0, 1.0]])
def test_a_state_in_an_order_that_cannot_be_is_refused(own: Agents, value: list[float]) -> None:
    def spoil(j: int, i: int, k: int, message: Message) -> Message:
        return {**message, "/gauge": torch.tensor(value)} if j == 2 else message

    losses = Losses(spoilt=spoil)
    merge_over(losses, TOLERANT["spread"], members(own, PAW))
    assert {(i, j) for i, j, _ in losses.refused} == {(0, 2), (1, 2), (3, 2)}
    assert all("state from agent 2 does not fit" in why for _, _, why in losses.refused)


def test_a_memory_that_is_not_finite_is_refused(own: Agents) -> None:
    losses = Losses(spoilt=lambda j, i, k, m: nan(m) if (j, k) == (2, 1) else m)
    them = members(own, PAW)
    found = merge_over(losses, TOLERANT["wa-mix"], them)
    lost = merge_over(Losses(lambda j, i, k: (j, k) == (2, 1)), TOLERANT["wa-mix"], them)
    for a, b in zip(found, lost, strict=True):
        same(a, b)
    assert "optimizer memory from agent 2: 'exp_avg/" in losses.refused[0][2]


# --- the others -----------------------------------------------------------------------------------

NEEDS_ALL = {
    "fedavg": METHODS["fedavg"](),
    "diloco": METHODS["diloco"](),
    "tree": Dimat("tree"),
    "tree-pooled": Dimat("tree", "pooled"),
    "pairwise-pooled": Dimat("pairwise", "pooled"),
}
# The first ones, in which these two talk to each other.
STEPS = {"fedavg": 1, "diloco": 1, "tree": 3, "tree-pooled": 4, "pairwise-pooled": 2}


@pytest.mark.parametrize(("name", "step"), [(n, k) for n in NEEDS_ALL for k in range(STEPS[n])])
def test_a_merge_that_needs_everyone_says_whom_it_missed(own: Agents, name: str, step: int) -> None:
    them = members(own, nx.complete_graph(3))
    losses = Losses(lambda j, i, k: {i, j} == {0, 1} and k == step)
    with pytest.raises(TrainingError, match=r"nothing from agent [01], and this method needs"):
        merge_over(losses, NEEDS_ALL[name], them)


@pytest.mark.parametrize("name", STEPWISE)
def test_a_step_that_needs_everyone_says_whom_it_missed(name: str) -> None:
    method = made(name, quiet_steps=0)
    them = agents(irregular_topology())
    losses = Losses(lambda j, i, k: True)
    with pytest.raises(TrainingError, match="nothing from agent"):
        run_all([losses.on(me.index, method.step(me)) for me in them], [Traffic() for _ in them])
