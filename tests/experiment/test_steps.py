"""Training steps: clipped gradients, batches in pieces, and learning rates that rise first."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dimat import RunConfig
from dimat.experiment.config.config import DataConfig, LossConfig, OptimizerConfig
from dimat.experiment.setup import make_setup
from dimat.state import State
from dimat.training.trainer import LocalTrainer, clip

CONFIG = RunConfig(
    agents=2,
    rounds=2,
    pretrain_epochs=1,
    batch_size=10,
    width=0.25,
    threads=1,
    data=DataConfig(split="by-class", train_images=100, validation=0),
    loss=LossConfig("adjusted", distill=1.0),
)


def agent(own: OptimizerConfig) -> LocalTrainer:
    """An agent in float64 that has begun a round."""
    found = make_setup(replace(CONFIG, optimizer=own)).new_agent(0, pretraining=False)
    found.model.double()
    found._stream = ((x.double(), y) for x, y in found._stream)
    found.begin_training()
    return found


def norm_of(gradient: State) -> float:
    return math.sqrt(sum(float(own.double().square().sum()) for own in gradient.values()))


@given(st.floats(1e-3, 1e3), st.floats(0, 1e3), st.integers(0, 99))
def test_a_clipped_gradient_has_at_most_the_norm_and_the_same_direction(
    most: float, scale: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    given = {k: scale * torch.randn(3, 2, generator=random, dtype=torch.float64) for k in "ab"}
    found, before = clip(given, most), norm_of(given)
    assert norm_of(found) == pytest.approx(min(before, most), rel=1e-5)
    if before <= most * (1 - 1e-6):
        assert all(torch.equal(found[k], given[k]) for k in given)
    for k in given:
        torch.testing.assert_close(
            found[k] * before, given[k] * norm_of(found), rtol=1e-4, atol=1e-9
        )


def test_a_gradient_of_nothing_stays_nothing() -> None:
    zero = {"a": torch.zeros(3), "b": torch.zeros(0)}
    assert norm_of(clip(zero, 1.0)) == 0
    assert clip({}, 1.0) == {}


def test_a_gradient_that_is_not_finite_is_not_hidden() -> None:
    found = clip({"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2)}, 1.0)
    assert not any(bool(own.isfinite().all()) for own in found.values())


@pytest.mark.parametrize("pieces", [2, 3, 10, 64])
def test_a_batch_in_pieces_has_the_gradient_and_the_loss_of_the_whole(pieces: int) -> None:
    """Three pieces of ten images are of unequal size, and there are no more pieces than images."""
    whole, parts = agent(OptimizerConfig()), agent(OptimizerConfig(accumulate=pieces))
    for _ in range(2):
        expected, found = whole.gradient(), parts.gradient()
        assert found.keys() == expected.keys()
        for name, own in expected.items():
            torch.testing.assert_close(found[name], own, rtol=1e-5, atol=1e-7)
        elsewhere = {k: 1.1 * v for k, v in whole.state().items()}
        crossed = whole.gradient_at(elsewhere)
        for name, own in parts.gradient_at(elsewhere).items():
            torch.testing.assert_close(own, crossed[name], rtol=1e-5, atol=1e-7)
        whole.update(expected)
        parts.update(expected)
    assert parts.loss() == pytest.approx(whole.loss(), rel=1e-5)


def test_gradients_are_clipped_here_and_at_anothers_network() -> None:
    free, cut = agent(OptimizerConfig()), agent(OptimizerConfig(clip_norm=1e-3))
    state = cut.state()
    for expected, found in (
        (free.gradient(), cut.gradient()),
        (free.gradient_at(state), cut.gradient_at(state)),
    ):
        assert norm_of(expected) > 1e-2
        assert norm_of(found) == pytest.approx(1e-3, rel=1e-5)
        torch.testing.assert_close(
            found["head.weight"],
            expected["head.weight"] * (1e-3 / norm_of(expected)),
            rtol=1e-5,
            atol=1e-9,
        )


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_rates_rise_over_the_first_steps_of_the_run_and_then_follow_the_schedule(
    schedule: str,
) -> None:
    def rates(own: OptimizerConfig) -> list[float]:
        one = make_setup(replace(CONFIG, optimizer=own)).new_agent(0, pretraining=True)
        found = []
        for _ in range(8):
            found.append(one.lr)
            one.update(one.gradient())
        return found

    flat = OptimizerConfig("sgd", 0.1, schedule=schedule)  # type: ignore[arg-type]
    without, found = rates(flat), rates(replace(flat, warmup_steps=4))
    share = [own / other for own, other in zip(found, without, strict=True)]
    assert share == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
