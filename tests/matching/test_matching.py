"""Correlation against NumPy, assignment against SciPy, and planted permutations found again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from tests.analyses import analyze
from tests.tiers import tiers
from torch import nn

from dimat.matching import Activations, match_units, permute_scores, solve_assignment
from dimat.matching.assignment import Scores
from dimat.matching.cross_moments import CrossMoments
from dimat.matching.parameter_slices import parameter_slices
from dimat.matching.unit_activations import observations
from dimat.models import build_model
from dimat.state import State
from dimat.symmetry import Analysis
from dimat.symmetry import analyze as analyze_anew
from dimat.symmetry.proof.redraw import redraw


def correlation(x: torch.Tensor, y: torch.Tensor, batches: int = 3) -> torch.Tensor:
    moments = CrossMoments()
    for a, b in zip(x.chunk(batches), y.chunk(batches), strict=True):
        moments.update(a, b)
    return moments.scores("correlation")


def activation_scores(
    analysis: Analysis, ours: State, theirs: State, batches: Sequence[torch.Tensor]
) -> Scores:
    how = Activations()
    moments = how.measure(analysis, [ours, theirs], [(0, 1)], batches)
    return how.scores(moments[0, 1])


def test_streamed_correlation_equals_numpys() -> None:
    x, y = torch.randn(300, 4), torch.randn(300, 5)
    y[:, 0] += x[:, 1]
    expected = np.corrcoef(x.double().numpy().T, y.double().numpy().T)[:4, 4:]
    np.testing.assert_allclose(correlation(x, y).numpy(), expected, atol=1e-6)


def test_a_mean_a_thousand_times_the_deviation_costs_no_digits() -> None:
    x = torch.randn(2000, 3)
    y = x + 0.5 * torch.randn(2000, 3)
    expected = np.corrcoef(x.double().numpy().T, y.double().numpy().T)[:3, 3:]
    np.testing.assert_allclose(correlation(x + 1000, y - 1000).numpy(), expected, atol=1e-3)


def test_dead_units_correlate_with_nothing_and_give_no_nan() -> None:
    x = torch.randn(50, 3)
    x[:, 1] = 7.0
    found = correlation(x, x)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1], torch.zeros(3, dtype=torch.float64))
    assert found[0, 0] == pytest.approx(1)


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_the_assignment_is_the_optimum(n: int, seed: int) -> None:
    score = np.random.default_rng(seed).normal(size=(n, n))
    rows, columns = linear_sum_assignment(score, maximize=True)
    found = solve_assignment(score)
    assert sorted(found) == list(range(n))
    assert score[np.arange(n), found].sum() == pytest.approx(score[rows, columns].sum())


def test_ties_go_to_the_identity() -> None:
    assert solve_assignment(np.zeros((5, 5))).tolist() == [0, 1, 2, 3, 4]
    assert solve_assignment(np.ones((4, 4))).tolist() == [0, 1, 2, 3]


def attention() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(5, 12)
            self.layer = nn.TransformerEncoderLayer(12, 3, 16, 0.0, batch_first=True)
            self.head = nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.layer(self.embed(x)))

    return Net()


def image_model(name: str, **settings: Any) -> nn.Module:
    return build_model(name, in_channels=3, num_classes=4, image_size=(8, 8), **settings)


PLANTED = {
    "mlp": (lambda: image_model("mlp", width=0.2), (3, 8, 8)),
    "cnn": (lambda: image_model("cnn", width=0.3), (3, 8, 8)),
    "resnet20": (lambda: image_model("resnet20", width=0.5), (3, 8, 8)),
    "resnet20-pad": (lambda: image_model("resnet20", width=0.5, shortcut="pad"), (3, 8, 8)),
    "resnet20-group": (lambda: image_model("resnet20", width=1, norm="group"), (3, 8, 8)),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=3), nn.ReLU(),
            nn.Conv2d(12, 4, 1), nn.Flatten(),
        ),
        (3, 8, 8),
    ),
    "attention": (attention, (6, 5)),
}  # fmt: skip


RESNETS = ("resnet20", "resnet20-pad", "resnet20-group")  # the zoo has residual streams too


@pytest.mark.parametrize("name", tiers(PLANTED, slow=RESNETS))
def test_a_permuted_copy_matches_back_to_the_original(name: str) -> None:
    build, shape = PLANTED[name]
    torch.manual_seed(0)
    model = build()
    random = torch.Generator().manual_seed(3)
    analysis = analyze(model, (torch.zeros(2, *shape),))
    state = {
        k: v.to(model.state_dict()[k].dtype) for k, v in redraw(model.state_dict(), random).items()
    }
    symmetry = analysis.symmetry
    theirs = symmetry.apply(symmetry.random(random), state)
    batches = [torch.randn(32, *shape, generator=random) for _ in range(4)]
    scores = activation_scores(analysis, state, theirs, batches)
    back = symmetry.apply(match_units(analysis, scores, state, theirs), theirs)
    outer = {name for group in symmetry.groups for name in group.over}
    assert set(scores) | outer == set(symmetry.names)  # every group is seen, or what is inside it
    torch.testing.assert_close(back, state, rtol=0, atol=0)  # dead units too


def test_permuting_scores_is_matching_permuted_models() -> None:
    model = image_model("cnn", width=0.2)
    random = torch.Generator().manual_seed(1)
    analysis = analyze(model, (torch.zeros(2, 3, 8, 8),))
    symmetry = analysis.symmetry
    ours, theirs = (
        {k: v.float() if v.is_floating_point() else v for k, v in s.items()}
        for s in (redraw(model.state_dict(), random), redraw(model.state_dict(), random))
    )
    p, q = symmetry.random(random), symmetry.random(random)
    batches = [torch.randn(16, 3, 8, 8, generator=random)]
    raw = activation_scores(analysis, ours, theirs, batches)
    direct = activation_scores(
        analysis, symmetry.apply(p, ours), symmetry.apply(q, theirs), batches
    )
    permuted = permute_scores(symmetry, raw, p, q)
    for name in raw:
        np.testing.assert_allclose(permuted[name], direct[name], atol=1e-4)


def test_what_is_derived_from_a_model_is_found_once_for_it() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    one, other = (analyze_anew(model, (torch.zeros(2, 3),)) for _ in range(2))
    for derived in (observations, parameter_slices):
        assert derived(one) is derived(one)
        assert derived(one) is not derived(other)
