"""What compares, draws and foresees runs does so by the metric of their task."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.tasks.test_runs import settings

import dimat
from dimat.cli import main
from dimat.experiment.config.parse import config_to_yaml
from dimat.tools.finish import finish
from dimat.tools.records.read import read_run


def yaml_of(task: str, folder: Path, **changes: object) -> Path:
    config = replace(settings(task, folder), out=None, rounds=1, pretrain_epochs=1, **changes)  # type: ignore[arg-type]
    path = folder / "base.yaml"
    path.write_text(config_to_yaml(config))
    return path


def test_a_run_is_read_with_its_metric(tmp_path: Path) -> None:
    result = dimat.run(settings("language-modeling", tmp_path), rounds=1, progress=False)
    found = read_run(tmp_path / "run")
    assert (found.metric.name, found.metric.higher_is_better) == ("perplexity", False)
    assert found.score == result.main.summary["test_perplexity_mean"]
    assert found.worst == max(own.merged or 0 for own in result.main.agents)
    assert found.curve.end.scores == {own.agent: own.trained for own in result.main.agents}


def test_a_comparison_and_its_page_have_the_metric_of_the_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = yaml_of("regression", tmp_path), tmp_path / "out"
    assert main(f"compare {base} --methods wa,local --seeds 0,1 --out {out}".split()) == 0
    said = capsys.readouterr().out
    assert "R2: test r2, mean over agents" in said
    assert "accuracy" not in said
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["test_r2_mean"]) <= 1 for row in rows)
    assert float(rows[0]["at_equal_epochs"]) == float(rows[0]["test_r2_mean"])
    assert main(f"report {out} --out {tmp_path / 'page'}".split()) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Test r2" in page
    text = re.sub(r'"[^"]*"', "", page.partition("<script")[0])  # an anchor keeps its name
    assert "ccuracy" not in text
    assert "test_r2_mean" in (tmp_path / "page" / "data.csv").read_text().splitlines()[0]


def test_runs_of_two_tasks_are_not_drawn_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("regression", "multilabel"):
        out = str(tmp_path / task)
        dimat.run(settings(task, tmp_path), rounds=0, out=out, controls=(), progress=False)
    both = f"{tmp_path / 'regression'} {tmp_path / 'multilabel'}"
    assert main(f"report {both} --out {tmp_path / 'page'}".split()) == 2
    assert "is measured by r2, and" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["regression", "segmentation", "language-modeling"])
def test_the_costs_of_another_task_are_foreseen(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = yaml_of(task, tmp_path, controls=())
    assert main(f"estimate {base} --no-calibrate".split()) == 0
    assert "FLOP" in capsys.readouterr().out


def test_a_task_without_classes_is_not_finished_by_a_head(tmp_path: Path) -> None:
    dimat.run(settings("regression", tmp_path), rounds=0, controls=(), progress=False)
    with pytest.raises(dimat.DimatError, match="run of task 'regression': its head is fitted to"):
        finish(tmp_path / "run")


def test_the_task_of_a_comparison_does_not_vary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = yaml_of("regression", tmp_path)
    grid = "--grid.task [regression,multilabel]"
    assert main(f"compare {base} --methods wa --seeds 0 --out {tmp_path / 'x'} {grid}".split()) == 2
    assert "tasks have metrics of their own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "model", "merge"),
    [
        ("regression", "mlp", "fisher"),
        ("multilabel", "mlp", "auto"),
        ("segmentation", "tests.tasks.models:pixelwise", "auto"),
        ("segmentation", "tests.tasks.models:pixelwise", "fisher"),
    ],
)
def test_images_that_are_not_at_hand_have_targets_of_the_task(
    task: str, model: str, merge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"estimate --assume 300,100,8,8,1,4 --task {task} --model {model} --width 0.1"
    words += f" --agents 3 --rounds 1 --controls none --no-calibrate --merging.combine {merge}"
    assert main(words.split()) == 0
    assert "FLOP" in capsys.readouterr().out


def test_texts_cannot_be_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    words = "estimate --assume 300,100,8,8,1,4 --task language-modeling --no-calibrate"
    assert main(words.split()) == 2
    assert (
        "'assume' is '300,100,8,8,1,4': must be left out with this task"
        in (capsys.readouterr().err.splitlines()[-1])
    )
