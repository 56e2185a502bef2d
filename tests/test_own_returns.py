"""What a user's own function returns is looked at where it returns, and told with the rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dimat
from dimat.data import SOURCES, SPLITS, Dataset, Partition, load_dataset
from dimat.data.partition import partition
from dimat.errors import ConfigError, DataError, DimatError
from dimat.matching import MATCHERS, IdentityMatcher, Matching
from dimat.merging import COMBINERS
from dimat.tasks import Classification
from dimat.tasks.checks import check_functions

LABELS = torch.arange(40) % 4


def dealt(monkeypatch: pytest.MonkeyPatch, found: object) -> Partition:
    """The partition of 40 images among 2 agents by a split that gives this."""
    monkeypatch.setitem(SPLITS, "own", lambda labels, agents, alpha, random: found)
    return partition("own", LABELS, 2, seed=0, alpha=1.0, batch_size=5)


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (None, r"split 'own' gives what is None: must be a dimat.data.Partition"),
        ([np.arange(20)] * 2, "gives what is of type list: must be a dimat.data.Partition"),
        (Partition([np.arange(20)], []), "gives 1 parts: must be a list of 2 parts"),
        (Partition([np.arange(20)] * 2, [np.arange(20)] * 3), "gives 3 parts: must be a list"),
        (Partition(*[[np.arange(20), np.arange(30, 41)]] * 2), "agent 1 indices from 30 to 40"),
        (Partition(*[[np.arange(-1, 9)] * 2] * 2), "agent 0 indices from -1 to 8: there are 40"),
        (Partition(*[[np.arange(20.0)] * 2] * 2), r"agent 0 an array of shape \(20,\) of float64"),
        (Partition(*[[np.arange(40) > 20] * 2] * 2), r"agent 0 an array of shape \(40,\) of bool"),
        (Partition(*[[np.zeros((9, 2), int)] * 2] * 2), r"agent 0 an array of shape \(9, 2\)"),
        (Partition(*[[np.arange(20), []]] * 2), "gives agent 1 0 training samples"),
    ],
)
def test_a_split_that_gives_no_partition_of_the_images_is_refused(
    monkeypatch: pytest.MonkeyPatch, found: object, rule: str
) -> None:
    with pytest.raises(DataError, match=rule):
        dealt(monkeypatch, found)


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_a_split_may_give_indices_of_any_kind(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    parts = [kind(range(20)), kind(range(20, 40))]
    found = dealt(monkeypatch, Partition(parts, parts))
    assert found.pretrain is found.rounds
    assert [own.tolist() for own in found.rounds] == [[*range(20)], [*range(20, 40)]]
    assert {own.dtype for own in found.rounds} == {np.dtype(np.int64)}


IMAGES = np.random.default_rng(0).random((40, 6, 6, 1), np.float32)


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (None, "source 'own:x' gives what is None: must be a dimat.data.Dataset"),
        ((IMAGES, LABELS), "gives what is of type tuple: must be a dimat.data.Dataset"),
        ((2 * IMAGES, LABELS), r"own:x: train_x ranges over \[.*\]: float images must lie in"),
        ((IMAGES.reshape(40, 1, 6, 6), LABELS), "look as if channels came first"),
        ((IMAGES, np.array(["cat"] * 40)), "own:x: train_y is <U3: targets are numbers"),
        ((IMAGES, LABELS[:39]), "train_x has 40 images, train_y 39 labels"),
    ],
)
def test_a_source_that_gives_no_inputs_and_targets_is_refused(
    monkeypatch: pytest.MonkeyPatch, found: Any, rule: str
) -> None:
    if isinstance(found, tuple) and "tuple" not in rule:
        found = Dataset("own", *found, *found)
    monkeypatch.setitem(SOURCES, "own", lambda place, tell: found)
    with pytest.raises(DataError, match=rule):
        load_dataset("own:x")


def test_a_source_may_give_arrays_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset("own", IMAGES, LABELS.numpy(), IMAGES, LABELS.tolist())  # type: ignore[arg-type]
    monkeypatch.setitem(SOURCES, "own", lambda place, tell: data)
    found = load_dataset("own")
    assert torch.equal(found.train_x, torch.from_numpy(IMAGES))  # type: ignore[arg-type]
    assert torch.equal(found.test_y, LABELS)  # type: ignore[arg-type]


class Without:
    """A combiner that gives what it is told to."""

    needs_batches = False

    def __init__(self, given: Any) -> None:
        self.given = given

    def combine(self, analysis: Any, states: Any, weights: Any, batches: Any) -> Any:
        return self.given(states[0])


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (lambda state: None, "that is None|gives what is None"),
        (lambda state: dict([*state.items()][1:]), "it lacks 'hidden1.weight'|it lacks '0.weight'"),
        (lambda state: {k: v.double() for k, v in state.items()}, "torch.float64, expected"),
        (lambda state: {k: v[:1] for k, v in state.items()}, "has shape"),
    ],
)
def test_a_combiner_that_gives_no_such_state_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, rule: str
) -> None:
    monkeypatch.setitem(COMBINERS, "own", Without(given))
    model, inputs = net(), torch.randn(20, 4)
    states = [net().state_dict() for _ in range(2)]
    with pytest.raises(DimatError, match=rule):
        dimat.merge(model, states, [inputs], combine="own")
    with pytest.raises(DimatError, match=rule):
        dimat.run(
            {"merging.combine": "own", "data.train_images": 200},
            agents=2,
            rounds=2,
            pretrain_epochs=0,
            controls=(),
            out=str(tmp_path / "run"),
            progress=False,
        )


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


@pytest.mark.parametrize(
    "found", [None, [], [1, 2], lambda own: own[:1], lambda own: [*own, own[0]], lambda own: own[0]]
)
def test_a_matcher_that_gives_no_matching_of_every_state_is_refused(
    monkeypatch: pytest.MonkeyPatch, found: Any
) -> None:
    class Own(IdentityMatcher):
        def match(self, problem: Any) -> Any:
            given: Sequence[Matching] = super().match(problem)
            return found(given) if callable(found) else found

    monkeypatch.setitem(MATCHERS, "own", Own)
    states = [net().state_dict() for _ in range(2)]
    rule = "matcher Own gives what is .*: must be a list of 2 dimat.matching.Matching"
    with pytest.raises(ConfigError, match=rule):
        dimat.merge(net(), states, [torch.randn(20, 4)], method="own")


def scaled(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize(
    ("name", "function", "rule"),
    [
        ("loss", scaled, r"loss gives what is a tensor of shape \(2,\).*: must be a scalar tensor"),
        ("loss", lambda *own: 1.0, "loss gives what is 1.0: must be a scalar tensor"),
        ("loss", lambda *own: torch.tensor(1.0), r".*shape \(\), torch.float32 without gradient"),
        (
            "totals",
            lambda *own: torch.zeros(3),
            "totals gives .*float32.*: must be a float64",
        ),
        (
            "totals",
            lambda *own: torch.zeros((), dtype=torch.float64),
            ".*float64 tensor of one axis",
        ),
        ("measure", lambda totals: None, "measure gives what is None: must be a dict"),
        ("measure", lambda totals: {"loss": 1.0}, "measure gives loss, and no 'accuracy'"),
        (
            "measure",
            lambda totals: {"accuracy": 1.0},
            "measure gives accuracy, and no 'loss'",
        ),
        ("measure", lambda totals: {}, "measure gives nothing, and no 'loss'"),
    ],
)
def test_a_task_whose_functions_give_something_else_is_refused_before_training(
    name: str, function: Any, rule: str
) -> None:
    task = type("Own", (Classification,), {name: staticmethod(function)})()
    with pytest.raises(ConfigError, match=f"task 'own': {rule}"):
        check_functions(task, "own", LABELS[:2], (2, 4))


def test_dimats_tasks_are_as_they_must_be() -> None:
    check_functions(Classification(), "classification", LABELS[:2], (2, 4))
