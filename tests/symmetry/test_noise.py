"""Random numbers inside a model: independent draws move with the units that they are added to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.symmetry.zoo_layers import lin, net
from torch import Tensor

import dimat
from dimat.matching import MATCHERS, Problem
from dimat.symmetry import analyze


def latent(m: Any, x: Tensor) -> Tensor:
    """A variational autoencoder's reparametrized latent."""
    h = m.e(x).relu()
    deviation = (0.5 * m.log_variance(h)).exp()
    return m.d(m.mean(h) + torch.randn_like(deviation) * deviation)  # type: ignore[no-any-return]


def by_shape(m: Any, x: Tensor) -> Tensor:
    h = m.e(x).relu()
    return m.d(m.mean(h) + torch.randn(3, 5, dtype=x.dtype) * m.log_variance(h))  # type: ignore[no-any-return]


def by_distribution(m: Any, x: Tensor) -> Tensor:
    h = m.e(x).relu()
    law = torch.distributions.Normal(m.mean(h), m.log_variance(h).exp(), validate_args=False)
    return m.d(law.rsample())  # type: ignore[no-any-return]


def by_gumbel(m: Any, x: Tensor) -> Tensor:
    h = m.e(x).relu()
    soft = torch.nn.functional.gumbel_softmax(m.mean(h), dim=-1)
    return m.d(soft * m.log_variance(h))  # type: ignore[no-any-return]


def by_slopes(m: Any, x: Tensor) -> Tensor:
    h = m.e(x).relu()
    slope = torch.nn.functional.rrelu(m.mean(h), training=True)
    return m.d(slope * m.log_variance(h))  # type: ignore[no-any-return]


FORWARDS = [latent, by_shape, by_distribution, by_gumbel, by_slopes]


def model_of(forward: Callable[..., Any]) -> torch.nn.Module:
    return net(forward, e=lin(3, 6), mean=lin(6, 5), log_variance=lin(6, 5), d=lin(5, 3))()


@pytest.mark.parametrize("forward", FORWARDS)
def test_units_under_independent_noise_are_free(forward: Callable[..., Any]) -> None:
    symmetry = dimat.find_symmetry(model_of(forward), (torch.zeros(3, 3),))
    assert sorted((g.cells, g.size) for g in symmetry.groups) == [(1, 5), (1, 6)]


def test_with_its_noise_moved_a_permuted_model_computes_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = model_of(latent), torch.randn(3, 3)
    symmetry = dimat.find_symmetry(model, (x,))
    p = symmetry.random(torch.Generator().manual_seed(3))
    noise = torch.randn(3, 5)
    order = torch.from_numpy(p.slots["mean"][0])
    assert not torch.equal(order, torch.arange(5))
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)
    before = model(x)
    monkeypatch.setattr(torch, "randn_like", lambda like: noise[:, order])
    model.load_state_dict(symmetry.apply(p, model.state_dict()))
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.randn(3, 5, dtype=x.dtype),
        lambda x: torch.bernoulli(torch.full((3, 5), 0.5, dtype=x.dtype)),
        lambda x: x.new_empty(3, 5).bernoulli_(0.5),
    ],
)
def test_units_under_one_and_the_same_noise_move_together(draw: Callable[[Tensor], Tensor]) -> None:
    """Permuted apart, they would no longer share their noise: another distribution."""

    def shared(m: Any, x: Tensor) -> Tensor:
        noise = draw(x)
        return m.c(m.a(x) * noise) + m.d(m.b(x) * noise)  # type: ignore[no-any-return]

    model = net(shared, a=lin(3, 5), b=lin(3, 5), c=lin(5, 2), d=lin(5, 2))()
    (group,) = dimat.find_symmetry(model, (torch.zeros(3, 3),)).groups
    assert {key for key, _ in group.members} >= {"a.weight", "b.weight", "c.weight", "d.weight"}


def test_a_permuted_copy_matches_back_through_its_noise() -> None:
    torch.manual_seed(0)
    model = model_of(latent)
    analysis = analyze(model, (torch.zeros(3, 3),))
    state, symmetry = model.state_dict(), analysis.symmetry
    theirs = symmetry.apply(symmetry.random(torch.Generator().manual_seed(1)), state)
    problem = Problem(analysis, [state, theirs], (0.5, 0.5), [(torch.randn(200, 3),)])
    _, found = MATCHERS["activations"].match(problem)
    back = symmetry.apply(found.permutation, theirs)
    torch.testing.assert_close(back, dict(state), rtol=0, atol=0)


def test_noise_on_the_model_s_outputs_moves_nothing() -> None:
    model = net(lambda m, x: m.a(x) + torch.randn_like(m.a(x)), a=lin(3, 5))()
    assert dimat.find_symmetry(model, (torch.zeros(3, 3),)).groups == ()
