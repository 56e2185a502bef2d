"""Streaming correlation against NumPy: laws that hold for any cut into batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dimat.matching.cross_moments import CrossMoments


def related(seed: int, n: int = 240, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=random)
    y = x @ torch.randn(5, 4, generator=random) + torch.randn(n, 4, generator=random)
    return x * scale, y * scale


def streamed(x: Tensor, y: Tensor, sizes: list[int]) -> Tensor:
    moments = CrossMoments()
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        moments.update(a, b)
    return moments.scores("correlation")


def numpys(x: Tensor, y: Tensor) -> Tensor:
    both = np.corrcoef(x.double().numpy().T, y.double().numpy().T)
    return torch.from_numpy(both[: x.shape[1], x.shape[1] :])


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.integers(2, 40), min_size=1, max_size=6))
def test_any_cut_into_batches_gives_numpys_correlation(seed: int, sizes: list[int]) -> None:
    x, y = related(seed, sum(sizes) + 3)
    found = streamed(x, y, [*sizes, 3])
    torch.testing.assert_close(found, numpys(x, y), rtol=0, atol=2e-5)


@pytest.mark.parametrize("mean", [1e3, -1e3])
@pytest.mark.parametrize("sizes", [[240], [80, 80, 80], [2, 238]])
def test_a_mean_far_above_the_deviation_costs_no_digits(mean: float, sizes: list[int]) -> None:
    x, y = related(1)
    y = y / y.std(0)
    found = streamed(x + mean, y + mean, sizes)
    torch.testing.assert_close(found, numpys(x, y), rtol=0, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e4])
def test_the_scale_of_the_activations_makes_no_difference(scale: float) -> None:
    x, y = related(2)
    found = streamed(x * scale, y / scale, [100, 140])
    torch.testing.assert_close(found, numpys(x, y), rtol=0, atol=1e-5)


def test_a_batch_of_another_mean_than_the_first_is_counted_right() -> None:
    x, y = related(3)
    drift = torch.linspace(0, 50, 240)[:, None]
    x, y = x + drift, y - drift
    torch.testing.assert_close(streamed(x, y, [60] * 4), numpys(x, y), rtol=0, atol=1e-4)


def test_swapping_the_models_transposes_and_a_sign_turns_the_sign() -> None:
    x, y = related(4)
    found = streamed(x, y, [120, 120])
    torch.testing.assert_close(streamed(y, x, [120, 120]), found.T)
    torch.testing.assert_close(streamed(-x, y, [120, 120]), -found)


def test_permuted_units_permute_the_correlation() -> None:
    x, y = related(5)
    p, q = torch.randperm(5), torch.randperm(4)
    found = streamed(x[:, p], y[:, q], [240])
    torch.testing.assert_close(found, streamed(x, y, [240])[p][:, q])


def test_a_unit_correlates_fully_with_itself_and_never_more() -> None:
    x, _ = related(6)
    found = streamed(x, 3 * x + 7, [100, 140])
    torch.testing.assert_close(found.diagonal(), torch.ones(5, dtype=torch.float64))
    assert float(found.abs().max()) <= 1.0


@pytest.mark.parametrize("value", [0.0, 0.1, 3.3, -1000.1])
def test_dead_units_score_zero_on_either_side_and_all_dead_ones_too(value: float) -> None:
    x, y = related(7)
    x[:, 2], y[:, 1] = value, value
    found = streamed(x, y, [100, 140])
    zeros = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(found[2], zeros[:4], rtol=0, atol=0)
    torch.testing.assert_close(found[:, 1], zeros, rtol=0, atol=0)
    alive = numpys(x[:, [0, 1, 3, 4]], y[:, [0, 2, 3]])
    torch.testing.assert_close(found[[0, 1, 3, 4]][:, [0, 2, 3]], alive, rtol=0, atol=1e-5)
    dead = torch.full((50, 3), value)
    torch.testing.assert_close(streamed(dead, dead, [20, 30]).abs().max(), zeros[0])


def test_one_observation_says_nothing() -> None:
    x, y = related(8, 1)
    torch.testing.assert_close(streamed(x, y, [1]), torch.zeros(5, 4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_activations_of_any_precision_are_accepted(dtype: torch.dtype) -> None:
    x, y = (v.to(dtype) for v in related(9))
    found = streamed(x, y, [240])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, numpys(x, y), rtol=0, atol=1e-5)


def test_observations_are_counted_and_not_changed() -> None:
    x, y = related(10)
    before = x.clone(), y.clone()
    moments = CrossMoments()
    moments.update(x, y)
    moments.update(x, y)
    assert moments.count == 480
    torch.testing.assert_close((x, y), before, rtol=0, atol=0)
