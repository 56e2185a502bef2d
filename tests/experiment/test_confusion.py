"""Recall and confusion of classes: counted by hand, recorded by runs, and equal to accuracies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import dimat
from dimat.experiment.evaluation.confusion import MOST_CLASSES, Confusion
from dimat.experiment.setup import Setup
from dimat.tasks import CLASSIFICATION, TASKS

CONFIG = dimat.RunConfig(
    agents=3,
    rounds=2,
    pretrain_epochs=1,
    local_steps=2,
    threads=1,
    controls=("local",),
    data={"split": "iid", "train_images": 240},  # type: ignore[arg-type]
    matching={"images": 50},  # type: ignore[arg-type]
)


def test_pairs_of_several_batches_are_counted_as_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    found, expected = Confusion(torch.zeros(5, 5, dtype=torch.int64)), torch.zeros(5, 5)
    for size in (7, 1, 0, 40):
        logits = torch.randn(size, 5, generator=generator)
        labels = torch.randint(4, (size,), generator=generator)  # and none of class 4
        found.add(logits, labels)
        for own, label in zip(logits, labels, strict=True):
            expected[label, own.argmax()] += 1
    assert found.counts.tolist() == expected.tolist()
    assert found.recall[:4] == pytest.approx((expected.diag() / expected.sum(1))[:4], abs=5e-5)
    assert found.recall[4] is None


@pytest.mark.parametrize(
    ("task", "classes", "samples", "counted"),
    [
        (CLASSIFICATION, MOST_CLASSES, 1, True),
        (CLASSIFICATION, MOST_CLASSES + 1, 1, False),
        (CLASSIFICATION, 2, 0, False),
        (TASKS["regression"], 2, 1, False),
    ],
)
def test_nothing_is_counted_without_classes_or_samples_or_with_too_many_classes(
    task: object, classes: int, samples: int, counted: bool
) -> None:
    test, config = (torch.zeros(samples), torch.zeros(samples)), SimpleNamespace(device="cpu")
    setup = SimpleNamespace(task=task, num_outputs=classes, test=test, config=config)
    assert (Confusion.of(cast(Setup, setup)) is not None) == counted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classes") / "run"
    return dimat.run(CONFIG, out=str(out)).folder


def lines(folder: Path, name: str) -> dict[tuple[int, str, int], Mapping[str, Any]]:
    text = (folder / f"{name}.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert len({(x["round"], x["phase"], x["agent"]) for x in found}) == len(found)
    return {(x["round"], x["phase"], x["agent"]): x for x in found}


@pytest.mark.parametrize("control", ["", "controls/local"])
def test_the_counts_of_the_last_round_give_the_accuracies_that_were_measured(
    folder: Path, control: str
) -> None:
    found = json.loads((folder / control / "confusion.json").read_text())
    metrics = lines(folder / control, "metrics")
    phases = ["trained"] if control else ["merged", "trained"]
    assert [*found] == ["round", *phases]
    for phase in phases:
        counts = torch.tensor(found[phase])
        own = [metrics[found["round"], phase, agent]["test_accuracy"] for agent in range(3)]
        assert counts.diag().sum() / counts.sum() == pytest.approx(sum(own) / 3)


def test_every_line_of_metrics_has_one_of_classes_whose_mean_over_samples_it_is(
    folder: Path,
) -> None:
    metrics, classes = lines(folder, "metrics"), lines(folder, "classes")
    assert [*classes] == [*metrics]
    counts = torch.tensor(json.loads((folder / "confusion.json").read_text())["trained"])
    shares = counts.sum(1) / counts.sum()
    for key, line in classes.items():
        assert line.keys() == {"round", "agent", "phase", "recall"}
        recall = torch.tensor(line["recall"])
        assert (recall * shares).sum() == pytest.approx(metrics[key]["test_accuracy"], abs=1e-4)
