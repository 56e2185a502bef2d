"""Local losses: what they are, and that every method and every way of training takes them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from tests.experiment.test_resume import NOISY
from tests.experiment.test_run import SMALL, lines
from tests.tiers import tiers
from torch.nn import functional

import dimat
from dimat.data import label_skew
from dimat.errors import ConfigError
from dimat.experiment import setup as setting_up
from dimat.experiment.config.config import DataConfig, LossConfig, MergingConfig, OptimizerConfig
from dimat.experiment.digests import pretrain_digest
from dimat.experiment.setup import make_setup
from dimat.losses import (
    LocalLoss,
    Logits,
    local_loss,
    loss_of_counts,
    not_true_distillation,
)
from dimat.methods import METHODS

COUNTS = torch.tensor([6, 0, 3, 1, 0])
LABELS = torch.repeat_interleave(torch.arange(5), COUNTS)
OWN = torch.tensor([0, 2, 3, 0, 2, 3, 0])  # labels of a batch


def logits() -> torch.Tensor:
    return 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0))


def test_plain_is_cross_entropy_bit_for_bit() -> None:
    assert torch.equal(
        local_loss(LABELS, 5, "plain")(logits(), OWN), functional.cross_entropy(logits(), OWN)
    )


def test_own_classes_is_cross_entropy_over_the_columns_that_an_agent_has() -> None:
    here = torch.tensor([0, 2, 3])
    expected = functional.cross_entropy(logits()[:, here], (OWN[:, None] == here).long().argmax(1))
    torch.testing.assert_close(local_loss(LABELS, 5, "own-classes")(logits(), OWN), expected)


def test_adjusted_is_the_likelihood_of_a_label_under_the_agents_own_prior() -> None:
    odds = logits().double().exp() * (COUNTS / COUNTS.sum())
    expected = -(odds[torch.arange(7), OWN] / odds.sum(1)).log().mean()
    torch.testing.assert_close(local_loss(LABELS, 5)(logits(), OWN).double(), expected)


@pytest.mark.parametrize("kind", ["own-classes", "adjusted"])
def test_logits_of_absent_classes_get_no_gradient_and_however_large_they_are_no_matter(
    kind: Logits,
) -> None:
    z, loss = logits().requires_grad_(), local_loss(LABELS, 5, kind)
    loss(z, OWN).backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())
    assert z.grad[:, [1, 4]].abs().max() == 0
    assert z.grad[:, [0, 2, 3]].abs().min() > 0
    far = logits()
    far[:, [1, 4]] = 1e4
    assert loss(far, OWN) == loss(logits(), OWN)


@pytest.mark.parametrize("kind", ["own-classes", "adjusted"])
def test_equal_shares_of_all_classes_change_nothing_but_rounding(kind: Logits) -> None:
    found = loss_of_counts(torch.full((5,), 4), kind)(logits(), OWN)
    torch.testing.assert_close(found, functional.cross_entropy(logits(), OWN))


def test_smoothed_labels_are_those_of_pytorch_over_the_classes_that_an_agent_has() -> None:
    z, here = logits(), torch.tensor([0, 2, 3])
    found = LocalLoss(smoothing=0.2)(z, OWN)
    torch.testing.assert_close(found, functional.cross_entropy(z, OWN, label_smoothing=0.2))
    own = replace(local_loss(LABELS, 5, "own-classes"), smoothing=0.2)
    labels = (OWN[:, None] == here).long().argmax(1)
    expected = functional.cross_entropy(z[:, here], labels, label_smoothing=0.2)
    torch.testing.assert_close(own(z, OWN), expected)
    z.requires_grad_()
    own(z, OWN).backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())
    assert z.grad[:, [1, 4]].abs().max() == 0


@pytest.mark.parametrize("kind", ["own-classes", "adjusted"])
def test_an_agent_of_one_class_still_learns(kind: Logits) -> None:
    z = logits().requires_grad_()
    loss = loss_of_counts(torch.tensor([0, 0, 9, 0, 0]), kind)(z, torch.full((7,), 2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert z.grad[:, 2].max() < 0


def test_labels_at_every_place_of_an_image_are_taken() -> None:
    z = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    y, loss = torch.zeros(2, 3, 4, dtype=torch.long), local_loss(LABELS, 5)
    torch.testing.assert_close(loss(z, y), loss(z.movedim(1, -1).reshape(-1, 5), y.flatten()))


def test_half_precision_is_summed_in_float32() -> None:
    for kind in get_args(Logits):
        assert local_loss(LABELS, 5, kind)(logits().bfloat16(), OWN).dtype == torch.float32


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (torch.tensor([0, 5]), "plain", "labels are 0 to 5: must be in 0 to 4"),
        (torch.tensor([-1, 2]), "adjusted", "labels are -1 to 2"),
        (torch.tensor([], dtype=torch.long), "adjusted", "labels are none"),
        (LABELS, "own", "logits is 'own': must be one of plain, own-classes, adjusted"),
    ],
)
def test_what_cannot_be_used_is_refused(labels: torch.Tensor, kind: Logits, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        local_loss(labels, 5, kind)


# --- not-true distillation ------------------------------------------------------------------------


def before() -> torch.Tensor:
    return 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(1))


def test_not_true_distillation_is_the_divergence_over_the_other_classes() -> None:
    total = 0.0
    for z, old, y in zip(logits().tolist(), before().tolist(), OWN.tolist(), strict=True):
        others = [c for c in range(5) if c != y]
        p = np.exp([old[c] for c in others]) / np.exp([old[c] for c in others]).sum()
        q = np.exp([z[c] for c in others]) / np.exp([z[c] for c in others]).sum()
        total += float((p * np.log(p / q)).sum())
    assert float(not_true_distillation(logits(), before(), OWN)) == pytest.approx(total / 7)


def test_it_says_nothing_of_the_true_class_and_pulls_the_others_to_what_they_were() -> None:
    z = logits().requires_grad_()
    not_true_distillation(z, before(), OWN).backward()  # type: ignore[no-untyped-call]
    true = torch.zeros(7, 5, dtype=torch.bool).scatter(1, OWN[:, None], True)
    assert z.grad is not None
    assert z.grad[true].abs().max() == 0
    assert z.grad[~true].abs().min() > 0
    other = logits()
    other[true] = 50.0  # alike, but for the true class
    assert float(not_true_distillation(other, logits(), OWN)) == 0


def test_logits_that_are_far_apart_two_classes_and_half_precision_are_finite() -> None:
    far = logits() * 1e4
    z = far.clone().requires_grad_()
    found = not_true_distillation(z, -far, OWN)
    found.backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert bool(found.isfinite())
    assert bool(z.grad.isfinite().all())
    two = not_true_distillation(logits()[:, :2], before()[:, :2], OWN.clamp(max=1))
    assert float(two) == 0
    half = not_true_distillation(logits().bfloat16(), before().bfloat16(), OWN)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(not_true_distillation(logits(), before(), OWN)), 0.05)


def test_it_is_the_mean_over_all_places_of_an_image() -> None:
    z, old = torch.randn(2, 2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    y = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(2))
    flat = [own.movedim(1, -1).reshape(-1, 5) for own in (z, old)]
    expected = not_true_distillation(*flat, y.flatten())
    torch.testing.assert_close(not_true_distillation(z, old, y), expected)


# --- in a run -------------------------------------------------------------------------------------

SPLIT = replace(SMALL, agents=4, controls=(), loss=LossConfig("adjusted"), width=0.25)
SPLIT = replace(SPLIT, data=DataConfig(split="dirichlet", alpha=0.5, train_images=400))


def test_how_far_shards_are_from_all_images_weighs_every_image_once() -> None:
    """Not every agent: a large shard is most of all images, and a small one is far from them."""
    labels = torch.tensor([0] * 8 + [1] * 2)
    found = label_skew([np.arange(8), np.arange(8, 10)], labels)
    assert found == pytest.approx((0.2 + 0.8) / 2)
    uneven = label_skew([np.arange(6), np.array([6, 8]), np.array([7, 9])], labels)
    assert uneven == pytest.approx((0.2 + 0.3 + 0.3) / 3)


def test_agents_that_were_pre_trained_by_another_loss_are_not_taken() -> None:
    digests = {
        pretrain_digest(make_setup(replace(SPLIT, loss=LossConfig(kind))))
        for kind in ("plain", "own-classes", "adjusted")
    }
    assert len(digests) == 3


def test_every_agent_has_the_shares_of_its_own_training_images_in_both_parts_of_a_run() -> None:
    split = DataConfig(split="iid-then-by-class", validation=0.2)
    setup = make_setup(replace(SPLIT, data=split))
    for pretraining in (True, False):
        for i in range(4):
            agent = setup.new_agent(i, pretraining=pretraining)
            labels = torch.cat([y for _, y in agent.shard.epoch(1, torch.Generator())])
            shares = torch.bincount(labels, minlength=10) / len(labels)
            assert agent.local_loss.offset is not None
            torch.testing.assert_close(agent.local_loss.offset.exp(), shares)
    pooled = setup.pooled().new_agent(0, pretraining=False)
    assert pooled.local_loss.offset is not None
    assert bool(pooled.local_loss.offset.isfinite().all())  # it has all classes


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("iid", (False, False)),
        ("iid-then-by-class", (False, True)),
        ("by-class", (True, True)),
        ("dirichlet", (True, True)),
    ],
)
def test_auto_is_adjusted_where_shards_differ_in_their_classes(
    split: str, expected: tuple[bool, bool]
) -> None:
    setup = make_setup(replace(SPLIT, data=DataConfig(split=split), loss=LossConfig("auto")))
    found = [setup.new_agent(0, pretraining=own).local_loss.offset for own in (True, False)]
    assert tuple(own is not None for own in found) == expected


@pytest.mark.parametrize(
    "name", tiers(list(METHODS), slow=[x for x in METHODS if x not in ("dimat", "cga", "local")])
)
def test_every_method_trains_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[int] = []
    plain = LocalLoss.__call__

    def counted(self: LocalLoss, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert self.offset is not None
        asked.append(len(y))
        return plain(self, z, y)

    monkeypatch.setattr(LocalLoss, "__call__", counted)
    config = replace(SPLIT, method=name, vectorize=1, optimizer=OptimizerConfig("msgd", 0.05))
    result = dimat.run(replace(config, out=str(tmp_path / "run")), progress=False)
    assert len(asked) > 10
    losses = [line["test_loss"] for line in lines(result.folder)]
    assert all(map(math.isfinite, losses))  # evaluation is by the bare logits


def test_local_training_alone_no_longer_forgets(tmp_path: Path) -> None:
    config = replace(SPLIT, method="local", data=DataConfig(), pretrain_epochs=10, rounds=5)
    found = {}
    for kind in ("plain", "adjusted"):
        own = replace(config, loss=LossConfig(kind), out=str(tmp_path / kind))  # type: ignore[arg-type]
        summary = dimat.run(own, progress=False).main.summary
        found[kind] = float(str(summary["test_accuracy_mean"]))
    assert found["adjusted"] > found["plain"] + 0.2


def test_how_shards_differ_is_looked_at_once_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(setting_up, "are_skewed", lambda parts, labels: looked.append(1) or True)
    setup = make_setup(replace(SPLIT, loss=LossConfig("auto"), merging=MergingConfig("average")))
    assert all(setup.new_agent(i, pretraining=True).local_loss.offset is not None for i in range(4))
    assert len(looked) == 2  # of pre-training, and of the rounds


@pytest.mark.parametrize(
    ("split", "weight", "expected"),
    [
        ("iid", None, 0.0),
        ("iid-then-by-class", None, 0.1),
        ("dirichlet", None, 0.1),
        ("dirichlet", 0.0, 0.0),
        ("iid", 0.3, 0.3),
    ],
)
def test_distillation_is_on_where_shards_differ_and_never_in_pre_training(
    split: str, weight: float | None, expected: float
) -> None:
    loss = LossConfig("plain", weight)
    setup = make_setup(replace(SPLIT, data=DataConfig(split=split), loss=loss))
    found = [setup.new_agent(0, pretraining=own).distill for own in (True, False)]
    assert found == [0.0, expected]


@pytest.mark.parametrize("method", ["dimat", "cdmsgd", "local"])
def test_a_round_is_distilled_from_the_network_that_it_began_with(
    tmp_path: Path, method: str
) -> None:
    """So the first step of a round is as it would be without, and the second is not."""
    config = replace(SPLIT, method=method, rounds=1, optimizer=OptimizerConfig("msgd", 0.05))
    losses = {}
    for steps in (1, 2):
        for weight in (0.0, 1.0):
            own = replace(config, local_steps=steps, loss=LossConfig("plain", weight))
            own = replace(own, out=str(tmp_path / f"{steps}-{weight}"))
            found = [
                x["train_loss"]
                for x in lines(dimat.run(own, progress=False).folder)
                if x["round"] == 1 and x["phase"] == "trained"
            ]
            losses[steps, weight] = float(np.mean(found))
    assert losses[1, 0.0] == pytest.approx(losses[1, 1.0], rel=1e-6)
    assert losses[2, 0.0] < losses[2, 1.0]


def test_it_starts_from_nothing_with_batch_norm_and_dropout_too() -> None:
    """The network before normalizes by the same batch, and draws the same noise."""
    found = {}
    for weight in (0.0, 1.0):
        loss = LossConfig("adjusted", weight)
        setup = make_setup(replace(SPLIT, model=NOISY, loss=loss))
        agent = setup.new_agent(0, pretraining=False)
        agent.begin_training()
        first, state = agent.gradient(), agent.state()
        agent.update(first)
        found[weight] = first, agent.gradient(), state
    for name, own in found[0.0][0].items():
        torch.testing.assert_close(found[1.0][0][name], own, rtol=1e-4, atol=1e-6)
    later = [found[weight][1] for weight in (0.0, 1.0)]
    assert any(not torch.allclose(later[0][k], later[1][k], rtol=1e-3) for k in later[0])
    for key, value in found[0.0][2].items():  # its running statistics moved once a step
        if "running" in key or "tracked" in key:
            torch.testing.assert_close(found[1.0][2][key], value, rtol=1e-5, atol=1e-6)


def test_the_gradient_at_anothers_network_is_of_the_same_loss() -> None:
    """As cga asks for it: at the agent's own state it is the agent's own gradient."""
    setup = make_setup(replace(SPLIT, loss=LossConfig("adjusted", 2.0)))
    agent = setup.new_agent(0, pretraining=False)
    agent.begin_training()
    agent.update(agent.gradient())
    assert agent.teacher is not None
    state = agent.state()
    own = agent.gradient()
    crossed = agent.gradient_at(state)
    for name, value in own.items():
        torch.testing.assert_close(crossed[name], value)
    agent.teacher = None
    assert any(not torch.equal(agent.gradient_at(state)[k], own[k]) for k in own)


@pytest.mark.slow
def test_many_rounds_lose_nothing_of_what_a_few_have_won(tmp_path: Path) -> None:
    """Logits of classes that nobody compares drift apart otherwise, and Grams take that over."""
    config = dimat.RunConfig(
        agents=3, rounds=20, pretrain_epochs=4, threads=1, topology="full", controls=(),
        data=DataConfig(split="by-class"),
    )  # fmt: skip
    found: dict[float | None, list[float]] = {}
    for weight in (0.0, None):
        own = replace(config, loss=LossConfig(distill=weight), out=str(tmp_path / str(weight)))
        result = dimat.run(own, progress=False)
        merged = [
            [line["test_accuracy"] for line in lines(result.folder) if line["phase"] == "merged"
             and line["round"] == number] for number in (4, 20)
        ]  # fmt: skip
        found[weight] = [float(np.mean(own)) for own in merged]
    assert found[None][1] > found[None][0] - 0.01
    assert found[None][1] > found[0.0][1] + 0.1
