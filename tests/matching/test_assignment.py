"""The assignment against SciPy and against brute force, and where it stays in place."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from dimat.matching import add_scores, solve_assignment
from dimat.matching.assignment import assign, less_prices
from dimat.models import build_model
from dimat.symmetry import find_symmetry


def total(score: np.ndarray, columns: np.ndarray) -> float:
    return float(score[np.arange(len(score)), columns].sum())


def best(score: np.ndarray) -> float:
    return total(score, linear_sum_assignment(score, maximize=True)[1])


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(0, 10**6))
def test_no_permutation_is_better(n: int, seed: int) -> None:
    score = np.random.default_rng(seed).uniform(-1, 1, (n, n))
    found = total(score, solve_assignment(score))
    assert found == pytest.approx(max(total(score, np.array(p)) for p in permutations(range(n))))


@settings(max_examples=30)
@given(st.integers(1, 15), st.integers(0, 10**6))
def test_it_is_scipys_optimum_with_ties_as_well(n: int, seed: int) -> None:
    score = np.random.default_rng(seed).integers(-2, 3, (n, n)).astype(float)
    found = solve_assignment(score)
    np.testing.assert_array_equal(np.sort(found), np.arange(n))
    assert total(score, found) == pytest.approx(best(score))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.7])
@pytest.mark.parametrize("n", [1, 2, 17])
def test_equal_scores_move_nothing(value: float, n: int) -> None:
    np.testing.assert_array_equal(solve_assignment(np.full((n, n), value)), np.arange(n))


@settings(max_examples=20)
@given(st.integers(4, 12), st.integers(0, 10**6))
def test_dead_units_stay_unless_a_living_one_takes_their_place(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    dead = random.random(n) < 0.5
    score = random.uniform(0.1, 1, (n, n))
    score[dead] = 0
    score[:, dead] = 0
    alive = np.flatnonzero(~dead)
    score[np.ix_(alive, alive)] += 5 * np.eye(len(alive))[random.permutation(len(alive))]
    found = solve_assignment(score)
    np.testing.assert_array_equal(found[dead], np.flatnonzero(dead))


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_a_planted_permutation_is_found_under_noise(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    planted = random.permutation(n)
    score = random.uniform(-0.4, 0.4, (n, n))
    score[np.arange(n), planted] += 1
    np.testing.assert_array_equal(solve_assignment(score), planted)


def test_a_greedy_choice_would_be_worse() -> None:
    score = np.array([[0.9, 0.8], [0.85, 0.1]])
    np.testing.assert_array_equal(solve_assignment(score), [1, 0])


def test_large_groups_are_solved_side_by_side_to_the_same_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_model("mlp", in_channels=1, num_classes=3, image_size=(2, 2), width=0.1)
    symmetry = find_symmetry(model, (torch.zeros(2, 1, 2, 2),))
    random = np.random.default_rng(0)
    scores = {own.name: random.standard_normal((own.size, own.size)) for own in symmetry.groups}
    assert len(scores) > 1
    alone = assign(symmetry, scores)
    monkeypatch.setattr("dimat.matching.assignment._LARGE", 1)
    together = assign(symmetry, scores)
    for name, score in scores.items():
        assert alone.slots[name].tolist() == together.slots[name].tolist()
        assert alone.slots[name][0].tolist() == solve_assignment(score).tolist()


def test_solving_leaves_the_scores_as_they_are() -> None:
    score = np.random.default_rng(0).normal(size=(5, 5))
    before = score.copy()
    solve_assignment(score)
    np.testing.assert_array_equal(score, before)


def test_scores_of_several_neighbors_add_up_by_weight() -> None:
    random = np.random.default_rng(1)
    parts = [{"a": random.normal(size=(3, 3)), "b": random.normal(size=(2, 2))} for _ in range(3)]
    found = add_scores(list(parts), [0.5, 0.25, 0.125])
    for name in ("a", "b"):
        expected = 0.5 * parts[0][name] + 0.25 * parts[1][name] + 0.125 * parts[2][name]
        np.testing.assert_allclose(found[name], expected)


@pytest.mark.parametrize("seed", range(5))
def test_prices_change_no_assignments_rank(seed: int) -> None:
    random = np.random.default_rng(seed)
    score = random.integers(0, 4, (7, 7)) * 1.0  # many ties
    best = solve_assignment(score)
    less = less_prices(score, best)
    rows = np.arange(7)
    assert less.max() <= 1e-12
    np.testing.assert_allclose(less[rows, best], 0.0, atol=1e-12)
    one, other = (random.permutation(7) for _ in range(2))
    expected = score[rows, one].sum() - score[rows, other].sum()
    assert less[rows, one].sum() - less[rows, other].sum() == pytest.approx(expected)


@pytest.mark.parametrize("cycle", [[1, 0, 2], [1, 2, 0]])
def test_an_assignment_that_can_be_bettered_has_no_prices(cycle: list[int]) -> None:
    score = np.eye(3)[cycle]
    assert less_prices(score, np.arange(3)) is score
    assert less_prices(score, np.asarray(cycle)) is not score


def test_prices_of_nobody() -> None:
    assert less_prices(np.zeros((0, 0)), np.zeros(0, np.int64)).shape == (0, 0)
