"""``dimat merge``, ``align`` and ``statistics`` of every task: its loss, metrics, ensemble."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.tasks.test_runs import MODELS, arrays, lines, settings

import dimat
from dimat.cli import main
from dimat.errors import ConfigError
from dimat.experiment.setup import make_setup
from dimat.tasks import TASKS, Metric
from dimat.tools.merge import tally as tallies
from dimat.tools.merge.tally import MetricTally
from dimat.tools.report.merged import merge_page

OTHERS = [name for name in TASKS if name != "classification"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")


def trained(name: str, **changes: Any) -> dimat.RunConfig:
    """Two agents that have never merged, in the folder ``run``."""
    config = replace(settings(name, Path()), agents=2, rounds=0, controls=(), **changes)
    dimat.run(config, progress=False)
    return config


def command(config: dimat.RunConfig, what: str = "merge", parents: str = "01") -> list[str]:
    files = [f"run/states/agent-00{number}.safetensors" for number in parents]
    return [
        *(what, *files, "--task", config.task, "--model", config.model),
        *("--data", config.data.source, "--threads", "1", "--out", "m.safetensors"),
    ]


def report() -> Any:
    return json.loads(Path("m.json").read_text())


def outputs(config: dimat.RunConfig, path: str) -> torch.Tensor:
    """What the network of a file says of the test samples."""
    setup = make_setup(config)
    model = setup.new_model(0)
    model.load_state_dict(load_file(path))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(setup.test[0])
    return found


@pytest.mark.parametrize("name", TASKS)
def test_networks_are_judged_by_the_metrics_of_their_task(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = trained(name)
    recorded, task = lines(Path("run")), TASKS[name]
    capsys.readouterr()
    assert main([*command(config), "--report", "page.html"]) == 0
    said, told = capsys.readouterr().out, report()["evaluation"]
    rows = {row["name"]: row for row in told["networks"]}
    for number in (0, 1):
        for metric in task.metrics:
            value = rows[f"parent {number}"][metric.name]
            assert value == pytest.approx(recorded[number][f"test_{metric.name}"], rel=1e-4)
        loss = recorded[number]["test_loss"]
        assert rows[f"parent {number}"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert [Metric(**own) for own in told["metrics"]] == list(task.metrics)
    assert told.get("samples", told.get("images")) == len(arrays(name)["test_y"])
    assert ("images" in told) == (name == "segmentation")
    main_metric = task.metrics[0]
    assert f"Test {main_metric.title}" in said
    assert ("less is better" in said) != main_metric.higher_is_better
    assert "parent 0: agent-000.safetensors" in said
    assert main_metric.show(rows["merged"][main_metric.name]) in said
    assert main_metric.show(rows["merged"][main_metric.name]) in Path("page.html").read_text()


@pytest.mark.parametrize("name", OTHERS)
def test_the_ensemble_is_what_the_task_makes_of_the_outputs(name: str) -> None:
    config = trained(name)
    assert main(command(config)) == 0
    (row,) = (own for own in report()["evaluation"]["networks"] if own["name"].startswith("ens"))
    task, targets = TASKS[name], make_setup(config).test[1]
    said = [outputs(config, f"run/states/agent-00{number}.safetensors") for number in (0, 1)]
    expected = task.measure(task.totals(task.pooled(said), targets))
    assert {key: row[key] for key in expected} == pytest.approx(dict(expected), rel=1e-4)


@pytest.mark.parametrize("combine", ["average", "gram", "fisher"])
def test_the_command_merges_a_regression_as_the_library_does(combine: str) -> None:
    config = trained("regression")
    assert main([*command(config), "--combine", combine, "--seed", "2"]) == 0
    from dimat.tools.merge.samples import Samples, as_they_are

    setup = make_setup(config)
    batches = Samples(setup.dataset.train_x, as_they_are, 250, "cpu").sample(2000, 2)
    files = [f"run/states/agent-00{number}.safetensors" for number in (0, 1)]
    own = dimat.merging.Fisher(TASKS["regression"]) if combine == "fisher" else combine  # type: ignore[arg-type]
    expected = dimat.merge(setup.new_model(0), files, batches, combine=own).state
    torch.testing.assert_close(load_file("m.safetensors"), expected, rtol=0, atol=0)


def test_a_table_is_read_as_a_run_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    random = np.random.default_rng(0)
    size, kind = random.normal(size=200), random.choice(["flat", "house"], 200)
    price = 2 * size + (kind == "house") + 5
    rows = [f"{s},{k},{i},{p}" for i, (s, k, p) in enumerate(zip(size, kind, price, strict=True))]
    Path("table.csv").write_text("\n".join(["size,kind,id,price", *rows]))
    data = {"source": "csv:table.csv", "target": "price", "leave_out": "id", "split": "iid"}
    config = replace(settings("regression", Path()), agents=2, rounds=0, controls=(), data=data)  # type: ignore[arg-type]
    dimat.run(config, progress=False)
    words = [*command(config), "--target", "price", "--leave-out", "id", "--test-share", "0.2"]
    assert main(words) == 0
    told = report()
    assert told["evaluation"]["samples"] == 40
    first = told["evaluation"]["networks"][0]
    assert first["r2"] == pytest.approx(lines(Path("run"))[0]["test_r2"], rel=1e-4)
    assert [own["path"] for own in told["inputs"]][-1] == "table.csv"
    assert "--target price" in told["command"]
    capsys.readouterr()
    assert main([*words, "--overwrite", "--fill", "0", "--leave-out", "id,no"]) == 2
    assert "'no'" in capsys.readouterr().err


def test_outputs_in_standard_units_are_measured_in_those_of_the_targets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    y = (50_000 * x[:, :1] + 200_000).astype(np.float32)
    np.savez("prices.npz", train_x=x[:80], train_y=y[:80], test_x=x[80:], test_y=y[80:])
    data: Any = {
        "source": "npz:prices.npz",
        "split": "iid",
        "target_mean": 2e5,
        "target_scale": 5e4,
    }
    config = replace(settings("regression", Path()), agents=2, rounds=0, controls=(), data=data)
    dimat.run(config, progress=False)
    scale = ["--target-mean", "200000", "--target-scale", "50000"]
    assert main([*command(config), *scale]) == 0
    told = report()
    first = told["evaluation"]["networks"][0]
    assert first["r2"] == pytest.approx(lines(Path("run"))[0]["test_r2"], rel=1e-4)
    assert "--target_mean" in told["command"].replace("-mean", "_mean")
    assert "give the same by --target-mean" not in capsys.readouterr().out
    assert main([*command(config), "--overwrite"]) == 0  # outputs as they are: far off, and said so
    assert report()["evaluation"]["networks"][0]["r2"] < -1
    assert "give the same by --target-mean" in " ".join(capsys.readouterr().out.split())
    classes = [
        "merge",
        "a.safetensors",
        "b.safetensors",
        "--model",
        "mlp",
        "--out",
        "x.safetensors",
    ]
    assert main([*classes, "--data", "digits", *scale]) == 2
    assert "it is for targets of regression" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["language-modeling", "segmentation"])
def test_align_and_statistics_know_the_task_too(name: str) -> None:
    config = trained(name)
    assert main([*command(config, "align")]) == 0
    assert main([*command(config, "statistics", "0"), "--combine", "fisher", "--overwrite"]) == 0
    kind = "Fisher of " + type(TASKS[name]).__name__
    assert dimat.Statistics.load("m.safetensors").combiner == kind


def test_inputs_without_targets_are_enough_where_nothing_is_tested() -> None:
    config = trained("regression")
    np.savez("inputs.npz", train_x=arrays("regression")["train_x"])
    words = command(config)
    words[words.index(config.data.source)] = "npz:inputs.npz"
    assert main([*words, "--no-evaluate", "--classes", "2"]) == 0
    assert report()["evaluation"] is None


def test_statistics_of_a_table_need_no_data_at_the_merge() -> None:
    config = trained("regression")
    for number in "01":
        words = command(config, "statistics", number)
        words[words.index("m.safetensors")] = f"of-{number}.safetensors"
        assert main([*words, "--combine", "fisher"]) == 0
    words = command(config)
    del words[words.index("--data") : words.index("--data") + 2]
    sent = ["--statistics", "of-0.safetensors", "of-1.safetensors", "--combine", "fisher"]
    assert main([*words, *sent, "--classes", "2", "--method", "weights"]) == 0


OWN = """
import dimat
from dimat.tasks import Metric, Regression

@dimat.TASKS.register("by-mae")
class ByMae(Regression):
    metrics = (Metric("mae", higher_is_better=False), Metric("r2"))

def made():
    return ByMae()
"""


@pytest.mark.parametrize("task", ["by-mae", "own_tasks:made", "own_tasks:ByMae"])
def test_a_task_of_ones_own_is_known_to_runs_and_merges(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own_tasks.py").write_text(OWN)
    monkeypatch.setattr(TASKS, "_things", dict(TASKS._things))
    monkeypatch.delitem(sys.modules, "own_tasks", raising=False)
    monkeypatch.syspath_prepend(".")
    imports = () if ":" in task else ("own_tasks",)
    config = trained("regression", task=task, imports=imports)
    assert main([*command(config), "--imports", ",".join(imports)]) == 0
    assert report()["evaluation"]["metrics"][0]["name"] == "mae"
    assert json.loads(Path("run/task.json").read_text())["task"] == task


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("no_such:thing", "task 'no_such:thing' cannot be imported: ModuleNotFoundError"),
        ("math:no", "task 'math:no' cannot be imported: AttributeError"),
        ("math:pi", "'math:pi' is 3.14159"),
    ],
)
def test_what_is_no_task_is_refused(
    task: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings("regression", Path())
    torch.save(make_setup(config).new_model(0).state_dict(), "0.pth")
    words = ["merge", "0.pth", "0.pth", *command(config)[3:], "--task", task]
    assert main(words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(ConfigError, match=re.escape(message)):
        dimat.run(config, task=task, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--task regresion", "'task' is 'regresion', which is unknown: did you mean 'regression'"),
        ("--normalize 0.5/0.5", "'normalize' is '0.5/0.5': must be left out where inputs are no"),
        ("--classes 1", "the targets need 2 outputs, but 'classes' is 1: give another --classes"),
        ("--task classification", "train_y is float64"),
        (f"--model {MODELS}:narrow", "gives (2, 3) for 2 inputs, expected (2, 2): as task 'regre"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_in_one_line(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings("regression", Path())
    for number in (0, 1):
        state = make_setup(replace(config, seed=number)).new_model(0).state_dict()
        torch.save(state, f"{number}.pth")
    words = ["merge", "0.pth", "1.pth", *command(config)[3:], *shlex.split(options)]
    assert main(words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not Path("m.safetensors").exists()


@pytest.mark.parametrize("name", TASKS)
def test_scores_of_many_outputs_are_those_of_few(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(name, Path())
    setup, task = make_setup(config), TASKS[name]
    with torch.no_grad():
        said = setup.new_model(0).eval()(setup.test[0])
    scores = []
    for held in (tallies._HELD, 20):
        monkeypatch.setattr(tallies, "_HELD", held)
        own = MetricTally(task)
        for pair in zip(said.split(7), setup.test[1].split(7), strict=True):
            own.add(*pair)
        scores.append(own.score())
    assert scores[0].metrics == pytest.approx(dict(scores[1].metrics), rel=1e-6)
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-5)
    assert list(scores[0].metrics) == [own.name for own in task.metrics]


def test_on_a_page_the_best_network_has_the_longest_bar() -> None:
    config = trained("language-modeling")
    assert main(command(config)) == 0
    told = report()
    rows = told["evaluation"]["networks"]
    for row, perplexity in zip(rows, (3.0, 5.0, 11.0, 7.0, 4.0), strict=True):
        row["perplexity"], row["recalibrated"] = perplexity, None
    page = merge_page(told)
    assert "Less perplexity is better" in " ".join(page.split())
    bars = [
        part.partition("%")[0]
        for part in page.split('class="bar" aria-hidden="true"><span style="width: ')[1:]
    ]
    assert bars[:5] == ["100.0", "75.0", "0.0", "50.0", "87.5"]
