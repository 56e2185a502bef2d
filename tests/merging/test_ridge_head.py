"""A closed-form head: the same however images are split among the agents."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from tests.analyses import analyze
from tests.merging.test_readouts import TwoHeads
from torch import Tensor, nn

from dimat.errors import ModelError
from dimat.merging.layerwise.ridge_head import FeatureSums, feature_sums, head_of, with_ridge_head
from dimat.state import state_of
from dimat.symmetry import Analysis


def network(*, bias: bool = True) -> tuple[nn.Module, Analysis]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=bias)).double().eval()
    return model, analyze(model, (torch.randn(2, 4).double(),))


def images(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=random).double()
    return x, torch.randint(0, 3, (count,), generator=random)


def sums_of(model: nn.Module, analysis: Analysis, *shards: tuple[Tensor, Tensor]) -> FeatureSums:
    state = state_of(model)
    head = head_of(analysis, state)
    return reduce(add, (feature_sums(analysis, head, state, [shard]) for shard in shards))


@pytest.mark.parametrize("bias", [True, False])
def test_the_head_is_the_ridge_regression_of_all_images_together(bias: bool) -> None:
    """By NumPy, of agents that have one class each."""
    model, analysis = network(bias=bias)
    state, (x, y) = state_of(model), images(50)
    sums = sums_of(model, analysis, *((x[y == c], y[y == c]) for c in range(3)))
    found = with_ridge_head(head_of(analysis, state), state, sums, 0.1)

    z = np.maximum((x @ state["0.weight"].T + state["0.bias"]).numpy(), 0)
    if bias:
        z = np.concatenate([z, np.ones((50, 1))], 1)
    floor = 0.1 * np.square(z).sum(0).mean()
    rows = np.concatenate([z, np.sqrt(floor) * np.eye(z.shape[1])])  # ridge as further rows
    wanted = np.concatenate([np.eye(3)[y.numpy()], np.zeros((z.shape[1], 3))])
    fitted = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    np.testing.assert_allclose(found["2.weight"].numpy(), fitted[:, :6], rtol=1e-6, atol=1e-9)
    if bias:
        np.testing.assert_allclose(found["2.bias"].numpy(), fitted[:, 6], rtol=1e-6, atol=1e-9)
    for key in ("0.weight", "0.bias"):
        assert torch.equal(found[key], state[key])


def test_units_in_another_order_have_the_same_head_in_that_order() -> None:
    model, analysis = network()
    state, shard = state_of(model), images(40)
    head = head_of(analysis, state)
    move = analysis.symmetry.random(torch.Generator().manual_seed(2))
    moved = analysis.symmetry.apply(move, state)
    found, again = (
        with_ridge_head(head, own, feature_sums(analysis, head, own, [shard]), 0.01)
        for own in (state, moved)
    )
    torch.testing.assert_close(again, analysis.symmetry.apply(move, found))


def test_a_model_without_one_head_is_refused_with_what_it_has() -> None:
    for model, words in (
        (TwoHeads(), "'first.weight', 'second.weight'"),
        (nn.Linear(4, 3), "none"),
    ):
        analysis = analyze(model.eval(), (torch.randn(2, 4),))
        with pytest.raises(ModelError, match=words):
            head_of(analysis, state_of(model))


def test_features_at_every_place_of_an_image_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    analysis = analyze(model, (torch.randn(2, 5, 4),))
    state = state_of(model)
    with pytest.raises(ModelError, match="must be .batch, features"):
        feature_sums(
            analysis, head_of(analysis, state), state,
            [(torch.randn(2, 5, 4), torch.zeros(2, dtype=torch.int64))],
        )  # fmt: skip
