"""Tasks: the laws, the metrics against scikit-learn's, and what is no target."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle
from torch import Tensor

from dimat.errors import DataError, ModelError
from dimat.tasks import (
    TASKS,
    Classification,
    LikelihoodTask,
    Metric,
    Regression,
    Segmentation,
)
from dimat.testing import check_task

RANDOM = np.random.default_rng(0)
LOUD = 20.0  # a logit that is as good as certain


def one_hot(labels: Any, dim: int) -> Tensor:
    """Logits that are as good as certain of labels."""
    hot = torch.nn.functional.one_hot(torch.as_tensor(labels), int(np.max(labels)) + 1)
    return (2 * hot.movedim(-1, dim) - 1) * LOUD


def samples(name: str) -> tuple[Any, Tensor]:
    """Targets of some samples of a task, and perfect outputs for them."""
    if name == "regression":
        y = RANDOM.normal(3.0, 2.0, (30, 2)).astype(np.float32)
        return y, torch.from_numpy(y)
    if name == "multilabel":
        y = RANDOM.integers(0, 2, (30, 4))
        return y, (2.0 * torch.from_numpy(y) - 1) * LOUD
    if name == "segmentation":
        y = RANDOM.integers(0, 3, (6, 4, 5))
        return y, one_hot(y, 1)
    if name == "language-modeling":
        y = RANDOM.integers(0, 5, (12, 7))
        return y, one_hot(np.roll(y, -1, 1), 2)
    labels = RANDOM.integers(0, 4, 30)
    return labels, one_hot(labels, 1)


@pytest.mark.parametrize("name", TASKS)
def test_dimats_tasks_keep_the_laws(name: str) -> None:
    check_task(name, *samples(name))


def measured(name: str, outputs: Tensor, targets: Any) -> Any:
    task = TASKS[name]
    return task.measure(task.totals(outputs.float(), task.targets(np.asarray(targets), "y")))


def test_metrics_are_those_of_scikit_learn() -> None:
    y, perfect = samples("regression")
    said = perfect + torch.randn(perfect.shape, generator=torch.Generator().manual_seed(0))
    found = measured("regression", said, y)
    assert found["r2"] == pytest.approx(oracle.r2_score(y, said), abs=1e-6)
    assert found["mse"] == pytest.approx(oracle.mean_squared_error(y, said), rel=1e-6)
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(y, said), rel=1e-6)
    labels, _ = samples("multilabel")
    logits = torch.randn(labels.shape, generator=torch.Generator().manual_seed(1))
    found, said = measured("multilabel", logits, labels), (logits > 0).numpy()
    assert found["f1"] == pytest.approx(oracle.f1_score(labels, said, average="micro"))
    assert found["exact_match"] == pytest.approx(oracle.accuracy_score(labels, said))
    pixels, _ = samples("segmentation")
    logits = torch.randn((6, 3, 4, 5), generator=torch.Generator().manual_seed(2))
    found, said = measured("segmentation", logits, pixels), logits.argmax(1).numpy().ravel()
    expected = oracle.jaccard_score(pixels.ravel(), said, average="macro")
    assert found["miou"] == pytest.approx(expected)
    assert found["pixel_accuracy"] == pytest.approx(oracle.accuracy_score(pixels.ravel(), said))


def test_r2_of_targets_far_from_zero_and_of_one_value() -> None:
    y = 2000 + RANDOM.normal(0, 1, 500)
    said = y + RANDOM.normal(0, 0.5, 500)
    found = measured("regression", torch.from_numpy(said)[:, None], y)
    expected = oracle.r2_score(y.astype(np.float32), said.astype(np.float32))
    assert found["r2"] == pytest.approx(expected, abs=1e-4)
    same = np.full(1000, 0.1)
    assert measured("regression", torch.full((1000, 1), 0.1), same)["r2"] == 1
    assert measured("regression", torch.full((1000, 1), 0.2), same)["r2"] == 0


def test_pixels_and_tokens_that_are_none_do_not_count() -> None:
    pixels, perfect = samples("segmentation")
    void = np.where(RANDOM.random(pixels.shape) < 0.3, 255, pixels)
    wrong = torch.where(torch.from_numpy(void == 255)[:, None], -perfect, perfect)
    task = Segmentation()
    assert measured("segmentation", wrong, void)["miou"] == 1
    assert task.num_outputs(task.targets(void, "y")) == 3
    assert float(task.loss(wrong, task.targets(void, "y"))) < 1e-6
    nothing = torch.full((2, 4, 5), 255)
    assert float(task.loss(torch.zeros(2, 3, 4, 5), nothing)) == 0
    texts = np.asarray([[1, 2, 3, -100, -100]])
    outputs = one_hot([[2, 3, 0, 0, 0]], 2)
    found = measured("language-modeling", outputs, texts)
    assert found["perplexity"] == pytest.approx(1)
    assert found["token_accuracy"] == 1


def test_perplexity_beyond_a_float_is_infinite() -> None:
    outputs = torch.zeros(1, 3, 2)
    outputs[..., 1] = 5000.0
    assert measured("language-modeling", outputs, [[0, 0, 0]])["perplexity"] == math.inf


def test_an_ensemble_of_classifiers_has_the_mean_of_their_probabilities() -> None:
    logits = [torch.randn(5, 3, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    mean = torch.stack([own.softmax(1) for own in logits]).mean(0)
    torch.testing.assert_close(Classification().pooled(logits).softmax(1), mean)
    yes = torch.stack([own.sigmoid() for own in logits]).mean(0)
    torch.testing.assert_close(TASKS["multilabel"].pooled(logits).sigmoid(), yes)


# --- likelihoods and labels -----------------------------------------------------------------------


def by_enumeration(name: str, z: Any) -> Any:
    """By NumPy: the mean of score scoreᵀ of one prediction, over all targets that it may have."""
    if name == "regression":
        return np.eye(len(z))  # of y - z, with variance 1
    if name == "multilabel":
        p = 1 / (1 + np.exp(-z))
        targets = np.array(list(itertools.product((0, 1), repeat=len(z))))
        weights = np.prod(np.where(targets == 1, p, 1 - p), 1)
    else:
        p = np.exp(z) / np.exp(z).sum()
        targets, weights = np.eye(len(z)), p
    scores = targets - p
    return (weights[:, None, None] * scores[:, :, None] * scores[:, None, :]).sum(0)


def roots(task: LikelihoodTask, rows: Tensor) -> Tensor:
    """(rows, size, size): S of each prediction, column by column."""
    columns = torch.eye(rows.shape[1], dtype=torch.float64)
    return torch.stack([task.information_root(rows, own.expand(rows.shape)) for own in columns], 2)


@pytest.mark.parametrize("name", TASKS)
def test_the_information_is_that_of_targets_drawn_from_the_predictions(name: str) -> None:
    _, perfect = samples(name)
    task = TASKS[name]
    assert isinstance(task, LikelihoodTask)
    outputs = torch.randn(perfect.shape, generator=torch.Generator().manual_seed(3)).double()
    rows = task.predictions(outputs)[:7]
    found = roots(task, rows)
    for row, root in zip(rows, found, strict=True):
        expected = by_enumeration(name, row.numpy())
        np.testing.assert_allclose((root @ root.T).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", TASKS)
def test_predictions_hold_every_output_that_the_loss_looks_at(name: str) -> None:
    given, perfect = samples(name)
    task = TASKS[name]
    assert isinstance(task, LikelihoodTask)
    outputs = torch.randn(perfect.shape, generator=torch.Generator().manual_seed(3))
    outputs.requires_grad_()
    (looked,) = torch.autograd.grad(task.loss(outputs, task.targets(given, "y")), outputs)
    (held,) = torch.autograd.grad(task.predictions(outputs).sum(), outputs)
    assert torch.equal(looked != 0, held != 0)


def test_label_shares_are_those_of_the_pixels_that_have_a_class() -> None:
    pixels = np.array([[[0, 0], [2, 255]], [[1, 1], [1, 1]], [[255, 255], [255, 255]]])
    found = Segmentation().label_shares(torch.from_numpy(pixels), 3)
    np.testing.assert_allclose(found, [[2 / 3, 0, 1 / 3], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("classification", (4, 3, 2, 2)),
        ("classification", (4, 1)),
        ("regression", (4,)),
        ("multilabel", (4, 3, 2)),
        ("segmentation", (4, 3)),
        ("language-modeling", (4, 3)),
    ],
)
def test_outputs_that_are_none_of_the_task_are_refused(name: str, shape: tuple[int, ...]) -> None:
    task = TASKS[name]
    assert isinstance(task, LikelihoodTask)
    with pytest.raises(ModelError, match=r"outputs have shape \(4.*, and the task has"):
        task.predictions(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("classification", np.zeros((3, 1), int), "labels are integers"),
        ("regression", np.zeros((3, 2, 2)), r"numbers \(n,\), or \(n, outputs\)"),
        ("regression", np.asarray([1.0, np.nan]), "not finite"),
        ("regression", np.asarray(["a"]), "targets of regression are numbers"),
        ("multilabel", np.zeros(3), r"\(n, labels\)"),
        ("multilabel", np.asarray([[0, 2]]), "has 2: a label is there, 1, or not, 0"),
        ("segmentation", np.zeros((2, 4, 4)), "the class of every pixel"),
        ("segmentation", np.full((2, 4, 4), -1), "label -1: labels start at 0"),
        ("language-modeling", np.zeros((3, 1), int), "two tokens at least"),
        ("language-modeling", np.asarray([[1, -2]]), "label -2"),
        ("language-modeling", np.zeros((3, 4)), "tokens of texts"),
    ],
)
def test_what_is_no_target_is_refused(name: str, given: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"train_y .*{message}"):
        TASKS[name].targets(given, "train_y")


@dataclass(frozen=True)
class Upside(Regression):
    """It says that a larger error is better."""

    metrics = (Metric("mse"), Metric("r2"), Metric("mae", higher_is_better=False))


@dataclass(frozen=True)
class Mean(Regression):
    """Its totals are means."""

    def totals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = super().totals(outputs, targets)
        return found / max(len(targets), 1)


@dataclass(frozen=True)
class Doubling(Regression):
    """Its ensemble of one is twice the one."""

    def pooled(self, outputs: Any) -> Tensor:
        return torch.stack(list(outputs)).sum(0) * 2


@dataclass(frozen=True)
class Other(Regression):
    """It trains on something else than it measures."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()


@dataclass(frozen=True)
class Entangled(Regression):
    """A prediction's information depends on those of other samples."""

    def information_root(self, predictions: Tensor, directions: Tensor) -> Tensor:
        return directions * predictions.std()


@dataclass(frozen=True)
class Counting(Regression):
    """It counts its labels, where shares are asked for."""

    def label_shares(self, targets: Tensor, num_outputs: int) -> Tensor:
        return (targets > 0).double() * 2


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Upside, "Perfect outputs have the best value"),
        (Mean, "Totals of batches add up"),
        (Doubling, "ensemble of one model"),
        (Other, "measured loss is that of training"),
        (Entangled, "prediction's root of the information"),
        (Counting, "shares are its own, and sum to 1"),
    ],
)
def test_a_task_that_breaks_a_law_is_told_which(task: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=f"broken: .*{said}"):
        check_task(task, *samples("regression"))
    check_task(Regression, *samples("regression"))
    y, perfect = samples("regression")
    check_task(Regression(3.0, 20.0), y, (perfect - 3) / 20)


def test_a_regression_is_learned_in_standard_units_and_measured_in_those_of_its_targets() -> None:
    y, perfect = samples("regression")
    said = perfect + torch.randn(perfect.shape, generator=torch.Generator().manual_seed(0))
    far, plain = Regression(500.0, 100.0), Regression()
    targets, ours = (own.targets(of, "y") for own, of in ((plain, y), (far, 100 * y + 500)))
    torch.testing.assert_close(far.loss(said, ours), plain.loss(said, targets))
    found = far.measure(far.totals(said, ours))
    expected = plain.measure(plain.totals(said, targets))
    for name, times in (("loss", 1), ("r2", 1), ("mae", 100), ("mse", 100**2)):
        assert found[name] == pytest.approx(times * expected[name], rel=1e-5), name
