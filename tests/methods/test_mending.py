"""Agents that stay together are left alone; one that left its order is found and finds back."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
import pytest
import torch
from tests.laws.graphs import PAW
from tests.methods.agents import Agents, agents_of, irregular, merge
from torch import Tensor

from dimat.errors import StructureError
from dimat.exchange import Step, Talk, Traffic
from dimat.exchange.in_process import run_all
from dimat.methods import Averaging, Dimat, RoundResult
from dimat.methods.gauge import GaugeId
from dimat.state import State

TESTING = Dimat("tree", drift=0.2)
ONE = GaugeId(0, 1)
GRAPHS: dict[str, nx.Graph[int]] = {
    "paw": PAW,
    "star": nx.star_graph(4),
    "ring": nx.cycle_graph(5),
    "path": nx.path_graph(4),
    "random": irregular(3),
}
PLANTED = [(name, agent) for name, graph in GRAPHS.items() for agent in graph]


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def own(request: pytest.FixtureRequest) -> Agents:
    return agents_of(request.param)


def gathered(n: int) -> dict[int, GaugeId | None]:
    return dict.fromkeys(range(n), ONE)


def mean(them: list[State]) -> State:
    floats = [k for k, v in them[0].items() if v.is_floating_point()]
    return {k: torch.stack([s[k] for s in them]).mean(0) for k in floats}


@pytest.mark.parametrize("graph", list(GRAPHS))
def test_agents_that_stay_together_are_mixed_as_they_are(own: Agents, graph: str) -> None:
    g = GRAPHS[graph]
    them = own.members(own.perturbed(len(g)), g, 2, gathered(len(g)))
    merged, traffic = merge(TESTING, them)
    plain, _ = merge(Averaging(), them)
    for a, b in zip(merged, plain, strict=True):
        assert (a.report.drift, a.permutation, a.gauge) == (0.0, None, ONE)
        torch.testing.assert_close(a.state, b.state, rtol=0, atol=0)
    _, without = merge(Dimat("tree"), them)
    for i, count in enumerate(traffic):  # one number to each neighbor is all that the test costs
        assert count.sent_bytes - without[i].sent_bytes == 8 * g.degree(i)


@pytest.mark.parametrize(("graph", "planted"), PLANTED)
def test_one_in_another_order_is_found_in_any_place_and_alone_moves_back(
    own: Agents, graph: str, planted: int
) -> None:
    """The merge is then what it would have been, so the mean of all is kept too."""
    g = GRAPHS[graph]
    together = own.perturbed(len(g))
    spoilt = [own.shuffled([s])[0] if i == planted else s for i, s in enumerate(together)]
    merged, _ = merge(TESTING, own.members(spoilt, g, 2, gathered(len(g))))
    expected, _ = merge(Averaging(), own.members(together, g, 2))
    for i, (a, b) in enumerate(zip(merged, expected, strict=True)):
        assert (a.permutation is not None) == (i == planted)
        torch.testing.assert_close(a.state, b.state)
    torch.testing.assert_close(mean([m.state for m in merged]), mean(together))
    assert merged[planted].report.drift == pytest.approx(1.0, abs=0.3)
    assert {m.gauge for m in merged} == {ONE}


def test_two_who_are_no_neighbors_move_back_at_once(own: Agents) -> None:
    ring: nx.Graph[int] = nx.cycle_graph(6)
    together = own.perturbed(6)
    spoilt = [own.shuffled([s], seed=i)[0] if i in (0, 3) else s for i, s in enumerate(together)]
    merged, _ = merge(TESTING, own.members(spoilt, ring, 2, gathered(6)))
    assert [i for i, m in enumerate(merged) if m.permutation is not None] == [0, 3]
    expected, _ = merge(Averaging(), own.members(together, ring, 2))
    for a, b in zip(merged, expected, strict=True):
        torch.testing.assert_close(a.state, b.state)


def test_without_the_test_another_order_is_not_noticed(own: Agents) -> None:
    """The control: the laws above can fail."""
    together = own.perturbed(4)
    spoilt = [together[0], own.shuffled([together[1]])[0], *together[2:]]
    merged, _ = merge(Dimat("tree"), own.members(spoilt, PAW, 2, gathered(4)))
    expected, _ = merge(Averaging(), own.members(together, PAW, 2))
    key = next(k for k, v in together[0].items() if v.dim() > 1)
    assert float((merged[1].state[key] - expected[1].state[key]).abs().max()) > 0.05


def test_below_the_threshold_nobody_moves(own: Agents) -> None:
    together = own.perturbed(4)
    spoilt = [together[0], own.shuffled([together[1]])[0], *together[2:]]
    lax = Dimat("tree", drift=1.0)
    merged, _ = merge(lax, own.members(spoilt, PAW, 2, gathered(4)))
    assert all(m.permutation is None for m in merged)
    assert merged[1].report.drift is not None
    assert merged[1].report.drift > 0.2


def test_memories_of_who_moves_back_move_along(own: Agents) -> None:
    mixing = Dimat("tree", drift=0.2, mix_memory=True)
    together = own.perturbed(4)
    spoilt = [*together[:3], own.shuffled([together[3]])[0]]
    names = [name for name, _ in own.model.named_parameters()]
    memories = [{"exp_avg": {k: s[k] for k in names}} for s in spoilt]
    merged, _ = merge(mixing, own.members(spoilt, PAW, 2, gathered(4), memories))
    for m in merged:
        assert m.memory is not None
        torch.testing.assert_close(m.memory["exp_avg"], {k: m.state[k] for k in names})


@pytest.mark.parametrize(
    "claim",
    [
        {"evidence": torch.tensor([1.5], dtype=torch.float64)},
        {"evidence": torch.tensor([torch.nan], dtype=torch.float64)},
        {"evidence": torch.zeros(2, dtype=torch.float64)},
        {},
    ],
)
def test_a_drift_that_is_no_share_is_refused_by_its_sender(
    own: Agents, claim: Mapping[str, Tensor]
) -> None:
    def lying(talk: Talk[RoundResult]) -> Talk[RoundResult]:
        step = next(talk)
        while True:
            lies = {j: claim if "evidence" in m else m for j, m in step.send.items()}
            inbox = yield Step(lies, step.hear)
            try:
                step = talk.send(inbox)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]

    talks = [TESTING.merge(m) for m in own.members(own.perturbed(4), PAW, 2, gathered(4))]
    with pytest.raises(StructureError, match="drift from agent 3 does not fit"):
        run_all([*talks[:3], lying(talks[3])], [Traffic() for _ in range(4)])
