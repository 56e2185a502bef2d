"""Alignment by matrices: transformed copies come back, and each step is SciPy's Procrustes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from tests.symmetry.test_continuous import MODELS
from torch import nn

import dimat
from dimat.errors import ConfigError, StructureError
from dimat.matching.procrustes import balancing, polar, procrustes
from dimat.symmetry.continuous import find_continuous_symmetry
from dimat.symmetry.proof.redraw import redraw

ROTATED = [name for name, (_, _, kinds) in MODELS.items() if kinds]


@pytest.mark.parametrize("name", ROTATED)
def test_a_transformed_copy_comes_back(name: str) -> None:
    build, inputs, _ = MODELS[name]
    model = build()
    symmetry = find_continuous_symmetry(model, inputs)
    random = torch.Generator().manual_seed(1)
    state = redraw(model.state_dict(), random)
    moved = symmetry.apply(symmetry.random(random), state)
    found = procrustes(symmetry, state, moved)
    assert found.cosine[0] < 0.9
    assert found.cosine[1] > 1 - 1e-6
    torch.testing.assert_close(found.state, state, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ROTATED)
def test_the_function_of_the_aligned_state_is_that_of_the_given_one(name: str) -> None:
    build, inputs, _ = MODELS[name]
    model = build()
    symmetry = find_continuous_symmetry(model, inputs)
    model.double().eval()
    random = torch.Generator().manual_seed(2)
    ours, theirs = redraw(model.state_dict(), random), redraw(model.state_dict(), random)
    found = procrustes(symmetry, ours, theirs)
    if all(group.kind != "scaling" for group in symmetry.groups):
        assert found.cosine[1] > found.cosine[0]  # scales bring proportions together, not weights
    if inputs.is_floating_point():
        inputs = torch.randn(inputs.shape, generator=random, dtype=torch.float64)
    expected, made = (
        torch.func.functional_call(model, state, inputs) for state in (theirs, found.state)
    )
    torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-8)
    for gain in symmetry.gains:  # it can be averaged with ours as it is
        torch.testing.assert_close(found.state[gain.name], ours[gain.name])


def test_the_polar_factor_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(7, 5)), random.normal(size=(7, 5))
    expected, _ = scipy.linalg.orthogonal_procrustes(theirs, ours)  # theirs @ expected ~ ours
    moments = torch.from_numpy(ours.T @ theirs)
    torch.testing.assert_close(polar(moments), torch.from_numpy(expected.T), rtol=1e-6, atol=1e-6)


def test_what_no_weight_tells_is_left_as_it_is() -> None:
    moments = torch.zeros(3, 3, dtype=torch.float64)
    moments[0, 0] = 2.0
    torch.testing.assert_close(polar(moments), torch.eye(3, dtype=torch.float64))


def test_balanced_factors_weigh_alike_and_keep_their_product() -> None:
    random = torch.Generator().manual_seed(0)
    a = torch.randn(3, 9, generator=random, dtype=torch.float64)
    b = 50 * torch.randn(8, 3, generator=random, dtype=torch.float64)
    s = balancing(a @ a.T, b.T @ b)
    balanced_a, balanced_b = s @ a, b @ torch.linalg.inv(s)
    torch.testing.assert_close(balanced_b @ balanced_a, b @ a)
    gram_a, gram_b = balanced_a @ balanced_a.T, balanced_b.T @ balanced_b
    torch.testing.assert_close(gram_a, gram_b, rtol=1e-4, atol=1e-4)


def test_factors_of_which_one_is_zero_are_rotated_by_the_other() -> None:
    """LoRA begins with B = 0, and a loss that does not reach it leaves it there."""
    build, inputs, _ = MODELS["low rank"]
    symmetry = find_continuous_symmetry(build(), inputs)
    torch.manual_seed(0)
    ours = {**build().state_dict(), "b.weight": torch.zeros(5, 3)}
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    theirs = {**ours, "a.weight": turn @ ours["a.weight"]}
    found = procrustes(symmetry, ours, theirs).state
    torch.testing.assert_close(found["a.weight"], ours["a.weight"], rtol=1e-4, atol=1e-5)


def test_a_merge_with_a_transformed_copy_is_the_network() -> None:
    build, inputs, _ = MODELS["layer norm"]
    torch.manual_seed(0)
    model = build()
    symmetry = find_continuous_symmetry(model, inputs)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(0.1 * torch.randn_like(value)) if "norm" in name else None
    state = model.state_dict()
    copy = symmetry.apply(symmetry.random(torch.Generator().manual_seed(1)), state)
    batches = [torch.randn(64, 6)]
    merged = dimat.merge(model, [state, copy], batches, continuous=True)
    assert "1 orthogonal with mean" in merged.notes[-1]
    torch.testing.assert_close(merged.state, dict(state), rtol=1e-3, atol=1e-4)
    plain = dimat.merge(model, [state, copy], batches)
    assert any((plain.state[key] - state[key]).abs().max() > 0.1 for key in state)


def test_a_model_of_permutations_alone_says_so() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    states = [model.state_dict(), model.state_dict()]
    merged = dimat.merge(model, states, [torch.randn(8, 3)], continuous=True)
    assert "permutations are all of its symmetry" in merged.notes[-1]


def test_what_matrices_cannot_move_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    states = [model.state_dict(), model.state_dict()]
    with pytest.raises(ConfigError, match="'continuous' needs the graph of a whole model"):
        dimat.merge(model, states, [torch.randn(8, 3)], continuous=True, at="0")


def test_a_gain_of_zero_is_refused_by_name() -> None:
    build, inputs, _ = MODELS["rms norm"]
    model = build()
    symmetry = find_continuous_symmetry(model, inputs)
    ours = {**model.state_dict(), "norms.1.weight": torch.zeros(8)}
    with pytest.raises(StructureError, match=r"'norms\.1\.weight' is zero"):
        procrustes(symmetry, ours, model.state_dict())
