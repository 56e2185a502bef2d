"""Mixing beyond the examples of test_merging: laws, precision, and weights that are no average."""

from __future__ import annotations

import copy

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.graphs import connected_graphs

from dimat.errors import StructureError
from dimat.merging import mix
from dimat.state import State, consensus_distance
from dimat.topology import metropolis, shard_size


def states(n: int, seed: int) -> list[State]:
    random = torch.Generator().manual_seed(seed)
    return [
        {"w": torch.randn(3, 4, generator=random, dtype=torch.float64), "n": torch.tensor(i)}
        for i in range(n)
    ]


def one_round(graph: nx.Graph[int], pi: np.ndarray, before: list[State]) -> list[State]:
    mixed = []
    for i in range(len(graph)):
        heard = [i, *sorted(graph.neighbors(i))]
        mixed.append(mix([before[j] for j in heard], [float(pi[i, j]) for j in heard]))
    return mixed


@settings(max_examples=20)
@given(connected_graphs(), st.integers(0, 1000))
def test_a_round_never_drives_agents_apart_and_keeps_every_counter(
    graph: nx.Graph[int], seed: int
) -> None:
    before = states(len(graph), seed)
    kept = copy.deepcopy(before)
    after = one_round(graph, metropolis(graph, np.ones(len(graph))), before)
    assert consensus_distance(after, ["w"]) < consensus_distance(before, ["w"]) + 1e-12
    assert [int(s["n"]) for s in after] == list(range(len(graph)))
    torch.testing.assert_close(before, kept, rtol=0, atol=0)


@settings(max_examples=20)
@given(connected_graphs(), st.integers(0, 1000))
def test_shard_size_weights_keep_the_mean_weighted_by_size(graph: nx.Graph[int], seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 300, len(graph)).astype(float)
    before = states(len(graph), seed)
    after = one_round(graph, shard_size(graph, sizes), before)
    share = torch.from_numpy(sizes / sizes.sum())
    means = [
        torch.einsum("i,ijk->jk", share, torch.stack([s["w"] for s in x])) for x in (before, after)
    ]
    torch.testing.assert_close(means[1], means[0])


def test_many_rounds_reach_consensus_at_the_mean() -> None:
    graph: nx.Graph[int] = nx.Graph([(0, 1), (0, 2), (1, 2), (2, 3), (3, 4)])
    now = states(5, 0)
    mean = torch.stack([s["w"] for s in now]).mean(0)
    for _ in range(200):
        now = one_round(graph, metropolis(graph, np.ones(5)), now)
    for state in now:
        torch.testing.assert_close(state["w"], mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_terms_survive_in_half_precision(dtype: torch.dtype) -> None:
    """Summed in half precision, 2048 + 1 + … + 1 stays 2048."""
    many = [{"w": torch.tensor([2048.0], dtype=dtype)}] + [
        {"w": torch.tensor([1024.0], dtype=dtype)}
    ] * 1023
    mixed = mix(many, [1 / 1024] * 1024)["w"]
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed, torch.tensor([1025.0]).to(dtype), rtol=0, atol=0)


def test_a_float64_entry_is_mixed_in_float64() -> None:
    tiny = 1e-12
    pair = [{"w": torch.tensor([1 + tiny], dtype=torch.float64)}, {"w": torch.ones(1).double()}]
    found = mix(pair, [0.5, 0.5])["w"]
    torch.testing.assert_close(
        found, torch.tensor([1 + tiny / 2], dtype=torch.float64), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.uint8])
def test_entries_that_count_are_the_agents_own_copy(kind: torch.dtype) -> None:
    own, other = ({"w": torch.tensor([value]).to(kind)} for value in (1, 0))
    mixed = mix([own, other], [0.1, 0.9])["w"]
    assert mixed.dtype == kind
    assert mixed.tolist() == own["w"].tolist()
    mixed.zero_()
    assert own["w"].item()


@pytest.mark.parametrize(
    "weights", [[float("nan"), 0.5], [float("inf"), 0.0], [0.5, 0.5 + 1e-4], [0.0, 0.0]]
)
def test_weights_that_do_not_sum_to_one_are_refused(weights: list[float]) -> None:
    with pytest.raises(StructureError, match="they must be >= 0 and sum to 1"):
        mix(states(2, 0), weights)


def test_nothing_cannot_be_mixed() -> None:
    with pytest.raises(StructureError, match="0 states, 0 weights"):
        mix([], [])


def test_a_state_of_another_precision_is_refused() -> None:
    first, second = states(2, 0)
    with pytest.raises(
        StructureError, match=r"state 1 does not fit: 'w' has shape .* torch.float32, expected"
    ):
        mix([first, {**second, "w": second["w"].float()}], [0.5, 0.5])


def test_one_state_alone_is_returned_as_a_copy() -> None:
    (state,) = states(1, 3)
    alone = mix([state], [1.0])
    torch.testing.assert_close(alone, state, rtol=0, atol=0)
    assert alone["w"].data_ptr() != state["w"].data_ptr()
