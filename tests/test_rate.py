"""The experiment of docs/theory.md: its gradients, its unit orders, and the bounds beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.descent import (
    Case,
    Found,
    at_agents,
    consensus_bound,
    consensus_of_noise,
    gradient_bound,
    measured,
    start,
)
from benchmarks.students import Problem, gradients, make_problem, outputs
from scipy.linalg import solve_discrete_lyapunov
from torch.func import grad, vmap


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(2, 200)


def test_a_students_gradient_is_that_of_autograd(problem: Problem) -> None:
    found, square = gradients(problem.init, problem.x, problem.y)
    torch.testing.assert_close(found, vmap(grad(problem.loss))(problem.init))

    def one(student: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * (outputs(student, x.unsqueeze(0))[1] - y).square().sum()

    each = vmap(grad(one), (None, 0, 0))(problem.init[0], problem.x, problem.y)
    torch.testing.assert_close(square[0], each.square().sum(-1).mean())


def test_the_noise_of_a_gradient_is_the_variance_of_batches(problem: Problem) -> None:
    students = problem.init.unsqueeze(1)
    noise, spread = at_agents(problem, students, torch.zeros(1, students.shape[-1]))
    drawn = torch.randint(len(problem.x), (2, 4000, 8), generator=torch.Generator().manual_seed(0))
    found, _ = gradients(students, problem.x[drawn], problem.y[drawn])
    torch.testing.assert_close(found.var(1).sum(-1), noise, rtol=0.05, atol=0)
    assert (spread == 0).all()


def test_students_start_as_one_function_and_in_the_orders_that_are_named(problem: Problem) -> None:
    expected = outputs(problem.init, problem.x)[1].unsqueeze(1).expand(-1, 5, -1)
    orders = {}
    for name in ("shared", "shuffled", "aligned"):
        found = start(problem, Case(5, 10, name))
        torch.testing.assert_close(outputs(found, problem.x)[1], expected)
        orders[name] = len(torch.unique(found[0], dim=0))
    assert orders == {"shared": 1, "shuffled": 5, "aligned": 1}


def test_one_unit_order_takes_the_way_of_a_shared_init_and_none_another(problem: Problem) -> None:
    shared, order, none = (
        measured(problem, Case(4, 80, name)).gradient for name in ("shared", "aligned", "shuffled")
    )
    torch.testing.assert_close(order, shared, rtol=1e-3, atol=0)
    assert (none > 2 * shared).all()


def test_disagreement_and_gradients_stay_within_their_bounds(problem: Problem) -> None:
    """The first is nearly attained where agents differ along the slowest direction of the ring."""
    for case in (Case(4, 80), Case(8, 160, tilt=0.1), Case(4, 160, graph="full")):
        found = measured(problem, case)
        assert float(found.consensus.mean()) <= float(consensus_bound(case, found).mean()) + 1e-9
        assert float(found.gradient.mean()) <= float(gradient_bound(case, found).mean())
    fresh, case = make_problem(2, 0), Case(4, 80)  # here what F falls by is most of it
    found = measured(fresh, case)
    assert float(found.gradient.mean()) <= float(gradient_bound(case, found).mean())
    case = Case(4, 160, tilt=0.3)
    found = measured(problem, case)
    assert float((found.consensus / consensus_bound(case, found)).min()) > 0.7


def test_the_disagreement_of_noise_alone_solves_its_lyapunov_equation() -> None:
    case = Case(7, 100)
    pi = case.topology.pi
    away = pi - np.full((7, 7), 1 / 7)
    covariance = solve_discrete_lyapunov(away, case.step**2 * away @ away.T)
    found = Found(*[torch.ones(1)] * 7)
    assert float(consensus_of_noise(case, found)) == pytest.approx(np.trace(covariance) / 7)
