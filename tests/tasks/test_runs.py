"""Runs of every task: what they learn, record and show, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.tasks.models import pixelwise

import dimat
from dimat.errors import ConfigError, DataError, ModelError
from dimat.experiment.config.access import with_setting
from dimat.experiment.config.parse import config_from
from dimat.experiment.given import given_of
from dimat.experiment.handshake import handshake
from dimat.experiment.record.summary import summarize
from dimat.experiment.setup import make_setup
from dimat.experiment.sources import target_notes
from dimat.experiment.tables import results_table
from dimat.state import load_state
from dimat.tasks import TASKS, Regression

SMALL = dimat.RunConfig(
    agents=3,
    rounds=2,
    pretrain_epochs=3,
    batch_size=8,
    threads=1,
    topology="full",
    controls=("local",),
    checkpoint={"every": 1},  # type: ignore[arg-type]
)
MODELS = "tests.tasks.models"


def arrays(task: str) -> dict[str, Any]:
    """Data that a small model learns at once."""
    random, n = np.random.default_rng(0), 180
    x: Any = random.normal(size=(n, 5))
    if task == "regression":
        y = np.stack([x[:, 0] - x[:, 1], 2 * x[:, 2]], 1)
    elif task == "multilabel":
        y = (x[:, :3] > 0).astype(int)
    elif task == "segmentation":
        x = random.random((n, 6, 6, 1))
        y = (x[..., 0] > 0.5).astype(int)
    elif task == "language-modeling":
        y = x = (random.integers(0, 6, (n, 1)) + np.arange(8)) % 6
    else:
        y = (x[:, 0] > 0).astype(int)
    test = n // 3
    return {"train_x": x[test:], "train_y": y[test:], "test_x": x[:test], "test_y": y[:test]}


def settings(task: str, folder: Path) -> dimat.RunConfig:
    path = folder / f"{task}.npz"
    np.savez(path, **arrays(task))
    own = {"segmentation": f"{MODELS}:pixelwise", "language-modeling": f"{MODELS}:Next"}
    return replace(
        SMALL,
        task=task,
        model=own.get(task, "mlp"),
        data={"source": f"npz:{path}", "split": "iid"},  # type: ignore[arg-type]
        optimizer={"lr": 1e-2},  # type: ignore[arg-type]
        out=str(folder / "run"),
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_every_task_learns_and_records_its_own_metrics(task: str, tmp_path: Path) -> None:
    result = dimat.run(settings(task, tmp_path), progress=False)
    metric = TASKS[task].metrics[0]
    first, *_, last = lines(tmp_path / "run")
    names = {name for name in first if name.startswith("test_")}
    assert names == {"test_loss", *(f"test_{own.name}" for own in TASKS[task].metrics)}
    assert first[f"validation_{metric.name}"] is not None
    assert last["test_loss"] < 0.7 * np.log(6)
    summary = result.main.summary
    values = [own.merged for own in result.main.agents]
    assert summary[f"test_{metric.name}_mean"] == pytest.approx(np.mean(values))
    worst = "min" if metric.higher_is_better else "max"
    assert summary[f"test_{metric.name}_{worst}"] == metric.worst(values)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(results_table(result))
    assert f"Test {metric.title} after 2 rounds" in capture.get()
    described = tmp_path / "run" / "task.json"
    assert described.exists() == (task != "classification")
    if task != "classification":
        assert json.loads(described.read_text())["metrics"][0]["name"] == metric.name


@pytest.mark.parametrize("task", ["regression", "language-modeling"])
def test_metrics_do_not_depend_on_the_size_of_a_batch(task: str, tmp_path: Path) -> None:
    setup = make_setup(settings(task, tmp_path))
    agent = setup.new_agent(0, pretraining=True)
    whole, parts = (agent.evaluate(*setup.test, batch_size=size) for size in (1000, 7))
    assert whole == pytest.approx(parts, rel=1e-5)


def test_a_run_of_another_task_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    config = settings("regression", tmp_path)
    whole = dimat.run(config, out=str(tmp_path / "whole"), progress=False)
    with pytest.raises(dimat.DimatError):
        dimat.run(config, max_wall_s=1e-3, progress=False)
    on = dimat.resume(tmp_path / "run", progress=False)
    assert on.main.agents == whole.main.agents


class Notes:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, name: str, total: int) -> None: ...

    def advance(self, number: int = 1) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None: ...


def test_targets_of_any_size_are_learned_alike_once_it_is_said(tmp_path: Path) -> None:
    """By agents one after another, side by side, and after a stop: scales are powers of two."""
    data = arrays("regression")
    for part in ("train_y", "test_y"):
        data[part] = np.round(data[part] * 256) / 256
    near = {name: own.astype(np.float32) for name, own in data.items()}
    far = {name: 1024 * own + 4096 if name.endswith("y") else own for name, own in near.items()}
    small: dict[str, Any] = {"task": "regression", "progress": False, "optimizer": {"lr": 1e-2}}
    both = []
    for name, own, scale in (
        ("near", near, {}),
        ("far", far, {"data.target_mean": 4096.0, "data.target_scale": 1024.0}),
    ):
        pairs = ((own["train_x"], own["train_y"]), (own["test_x"], own["test_y"]))
        out = str(tmp_path / name)
        both.append(dimat.run(SMALL, data=pairs, out=out, **small, **scale))
        again = dimat.run(SMALL, data=pairs, out=f"{out}-3", vectorize=3, **small, **scale)
        for one, other in zip(both[-1].main.agents, again.main.agents, strict=True):
            assert one.trained == pytest.approx(other.trained, abs=1e-4)
    states = [load_state(own.folder / "states" / "agent-000.safetensors") for own in both]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    one, other = (lines(own.folder)[-1] for own in both)
    assert one["train_loss"] == other["train_loss"]
    for name, times in (("loss", 1), ("r2", 1), ("mae", 1024), ("mse", 1024**2)):
        assert other[f"test_{name}"] == pytest.approx(times * one[f"test_{name}"], rel=1e-5), name


def test_targets_far_from_one_are_said_with_the_settings_that_bring_them_near() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 90, 1))
    far = 300 + 80 * y
    mean, sd = f"{far.mean():.3g}", f"{far.std():.3g}"
    said = f"targets have mean {mean} and standard deviation {sd}: they are learned better with "
    settings = f"--data.target_mean {mean} --data.target_scale {sd}"
    for scale, notes in (
        ({}, [f"{said}{settings}"]),
        ({"data.target_mean": float(mean), "data.target_scale": float(sd)}, []),
    ):
        told = Notes()
        own: dict[str, Any] = {"task": "regression", "data.split": "iid", "rounds": 1, **scale}
        dimat.run(SMALL, told, data=((x, far), (x, far)), **own)
        assert [note for note in told.notes if "targets" in note] == notes


@pytest.mark.parametrize(
    ("targets", "notes"),
    [
        (np.arange(90) % 10, ["whole numbers 0 to 9: regression takes them for amounts, --task"]),
        (1 + np.arange(90) % 3, ["whole numbers 1 to 3: "]),
        (np.arange(90) % 10 * 2, []),  # with gaps
        (np.arange(90) % 10 - 3, []),
        (np.arange(90) % 10 / 2, []),
        (np.arange(90) % 21, []),  # too many
        (np.stack([np.arange(90) % 10] * 2, 1), []),
        (np.full(90, 7.0), []),
        (np.full(90, 0.0), []),
        (np.arange(90) * 1.0, ["mean 44.5 and standard deviation 26: "]),
        (np.arange(90) * 1e-3, ["mean 0.0445 and standard deviation 0.026: "]),
        (np.arange(90) / 30 + 50, ["mean 51.5 and standard deviation 0.866: "]),
    ],
)
def test_what_is_said_of_targets(targets: Any, notes: list[str]) -> None:
    task = Regression()
    found = target_notes(task, task.targets(targets, "y"), own=False)
    assert len(found) == len(notes)
    assert all(note in own for note, own in zip(notes, found, strict=True)), found
    classes = TASKS["classification"]
    assert target_notes(classes, torch.arange(9), own=False) == []


def test_the_scale_of_targets_is_one_of_all_agents_and_of_regression_alone(tmp_path: Path) -> None:
    config = settings("regression", tmp_path)
    terms = []
    for scale in (1.0, 2.0):
        own = replace(config.data, split="own", target_scale=scale)  # type: ignore[arg-type]
        setup = make_setup(replace(config, data=own), agent=1)
        terms.append(handshake(setup, matches=False))
    assert {name for name in terms[0] if terms[0][name] != terms[1][name]} == {"data.target_scale"}
    [note] = target_notes(setup.task, 99 + setup.dataset.train_y, own=True)
    assert note.endswith(", the same at all agents")
    for name, value in (("target_mean", 3.0), ("target_scale", 2.0)):
        with pytest.raises(ConfigError, match=f"'data.{name}' is {value:.1f}: must be . with task"):
            dimat.run({f"data.{name}": value})
    with pytest.raises(ConfigError, match="'data.target_scale' is 0.0: must be > 0"):
        dimat.run({"data.target_scale": 0.0, "task": "regression"})


def test_agents_of_tables_train_side_by_side_as_one_after_another(tmp_path: Path) -> None:
    config = settings("regression", tmp_path)
    alone = dimat.run(config, progress=False)
    stacked = dimat.run(config, vectorize=3, out=str(tmp_path / "stacked"), progress=False)
    for one, other in zip(alone.main.agents, stacked.main.agents, strict=True):
        assert one.trained == pytest.approx(other.trained, abs=1e-4)


def test_texts_have_classes_too(tmp_path: Path) -> None:
    data = arrays("language-modeling")
    texts = {**data, "train_y": data["train_x"][:, 0] // 3, "test_y": data["test_x"][:, 0] // 3}
    np.savez(tmp_path / "texts.npz", **texts)
    config = replace(
        settings("language-modeling", tmp_path),
        task="classification",
        model=f"{MODELS}:OfTexts",
        data={"source": f"npz:{tmp_path}/texts.npz", "split": "iid"},  # type: ignore[arg-type]
    )
    assert dimat.run(config, progress=False).main.agents[0].trained > 0.7


def test_the_default_split_fits_the_task_and_the_data() -> None:
    assert dimat.RunConfig().data.split == "iid-then-by-class"
    own = config_from(None, {"data": {"source": "npz:x"}})
    assert own.data.split == with_setting(own, "data.source", "folder:y").data.split == "iid"
    assert with_setting(own, "data.source", "digits").data.split == "iid-then-by-class"
    assert dimat.RunConfig(task="regression").data.split == "iid"
    assert dimat.RunConfig(task=Regression()).task == "regression"  # type: ignore[arg-type]
    assert dimat.RunConfig(task=Regression).task == "regression"  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, {}, dimat.RunConfig()])
def test_a_task_that_is_changed_has_its_own_default_split(given: Any) -> None:
    assert config_from(given, {"task": "regression"}).data.split == "iid"
    other = config_from(given, {"task": "regression", "data": {"source": "npz:x"}})
    assert (other.data.split, other.data.source) == ("iid", "npz:x")
    assert config_from(given, {"task": "classification"}).data.split == "iid-then-by-class"
    assert config_from(given, {"data": {"split": "dirichlet"}}).data.split == "dirichlet"


def sites(*, alike: bool) -> list[tuple[Any, Any]]:
    """Images of two agents, whose pixels are of the same classes, or of others."""
    random = np.random.default_rng(0)
    found = []
    for low in (0.0, 0.0) if alike else (0.0, 0.4):
        x = (low + 0.6 * random.random((40, 1, 6, 6))).astype(np.float32)
        found.append((x, (x[:, 0] > 0.5).astype(int)))
    return found


@pytest.mark.parametrize(("alike", "combine"), [(True, "average"), (False, "gram")])
def test_agents_whose_pixels_are_of_other_classes_merge_by_grams(alike: bool, combine: str) -> None:
    config = replace(SMALL, agents=2, task="segmentation")
    config, given = given_of(config, {"model": pixelwise, "data": sites(alike=alike)})
    assert make_setup(config, given=given).config.merging.combine == combine


@pytest.mark.parametrize("task", TASKS)
def test_runs_of_every_task_merge_by_fisher_information(task: str, tmp_path: Path) -> None:
    def merged(by: str) -> dict[str, Any]:
        own = {"out": str(tmp_path / by), "merging": {"combine": by}, "controls": ()}
        config = settings(task, tmp_path)
        dimat.run(config, **own, rounds=1, pretrain_epochs=1, progress=False)  # type: ignore[arg-type]
        return lines(tmp_path / by)[-2]

    assert merged("fisher")["test_loss"] != merged("average")["test_loss"]


class Own(Regression):
    """It has no name."""


@dataclass(frozen=True)
class Bare:
    """Regression that says nothing of how likely targets are."""

    task = Regression()
    metrics, has_classes = task.metrics, False
    targets, num_outputs, output_shape = task.targets, task.num_outputs, task.output_shape
    loss, totals, measure, pooled = task.loss, task.totals, task.measure, task.pooled


def test_a_task_without_a_likelihood_cannot_be_merged_by_fisher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS._things, "bare", Bare())
    config = settings("regression", tmp_path)
    with pytest.raises(ConfigError, match="Bare has no 'predictions'"):
        dimat.run(config, task="bare", merging={"combine": "fisher"}, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "regresion"}, "'task' is 'regresion'.*did you mean 'regression'"),
        ({"task": Own()}, "not registered.*dimat.TASKS.register"),
        ({"task": 3}, "'task' is .*must be classification, regression"),
        ({"data": {"split": "by-class"}}, "'data.split' is 'by-class': must be iid, or own, with"),
        ({"loss": {"logits": "adjusted"}}, "'loss.logits' is 'adjusted': must be auto or plain"),
        ({"loss": {"label_smoothing": 0.1}}, "'loss.label_smoothing' is 0.1: must be 0 with task"),
        ({"loss": {"distill": 1.0}}, "'loss.distill' is 1.0: must be 0 or null with task"),
        ({"data": {"classes": ("a", "b")}}, "'data.classes' is .*: must be none with task"),
        ({"data": {"augment": True}}, "'data.augment' is true: must be false where inputs are no"),
    ],
)
def test_settings_that_do_not_fit_the_task_are_refused(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = settings("regression", tmp_path)
    if "data" in given:
        given = {"data": {"source": config.data.source, "split": "iid", **given["data"]}}
    with pytest.raises(ConfigError, match=message):
        dimat.run(config, progress=False, **given)
    assert not (tmp_path / "run").exists()


def test_targets_that_do_not_fit_the_task_are_refused(tmp_path: Path) -> None:
    config = settings("regression", tmp_path)
    with pytest.raises(DataError, match="train_y is float64 .* labels are integers"):
        dimat.run(config, task="classification", progress=False)
    with pytest.raises(DataError, match="a label is there, 1, or not, 0"):
        dimat.run(config, task="multilabel", progress=False)


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = settings("regression", tmp_path)
    with pytest.raises(
        ModelError, match=r"gives \(2, 3\) for 2 inputs, expected \(2, 2\): as task"
    ):
        dimat.run(config, model=f"{MODELS}:narrow", progress=False)
    with pytest.raises(ModelError, match="model 'cnn' takes images"):
        dimat.run(config, model="cnn", progress=False)
    texts = settings("language-modeling", tmp_path)
    with pytest.raises(ModelError, match="'mlp' takes no tokens"):
        dimat.run(texts, model="mlp", progress=False)


def test_a_value_that_is_not_finite_is_null_in_the_summary() -> None:
    history = [
        {
            "round": 0,
            "agent": agent,
            "phase": "trained",
            "test_r2": value,
            "validation_r2": None,
            "sent_bytes": 0,
        }
        for agent, value in enumerate((0.5, None))
    ]
    config = dimat.RunConfig(task="regression", rounds=0, agents=2)
    found = summarize(config, "local", "trained", history, 0, 1.0)
    assert found["test_r2_mean"] is None
    assert found["best_round"] == 0


def test_augmentation_of_pixels_with_classes_is_refused(tmp_path: Path) -> None:
    config = settings("segmentation", tmp_path)
    source = {"source": config.data.source, "split": "iid", "augment": True}
    with pytest.raises(ConfigError, match="targets have places, which would not follow"):
        dimat.run(config, data=source, progress=False)


def test_images_of_regression_are_images(tmp_path: Path) -> None:
    data = arrays("segmentation")
    means = {part: data[f"{part}_x"].mean((1, 2, 3)) for part in ("train", "test")}
    np.savez(tmp_path / "m.npz", **{**data, "train_y": means["train"], "test_y": means["test"]})
    config = settings("regression", tmp_path)
    own = {"source": f"npz:{tmp_path}/m.npz", "augment": True, "split": "iid"}
    setup = make_setup(replace(config, data=own, model="cnn"))  # type: ignore[arg-type]
    agent = setup.new_agent(0, pretraining=True)
    x, y = agent.batch()
    assert (x.shape, y.shape) == ((8, 1, 6, 6), (8, 1))
    assert x.dtype == torch.float32
