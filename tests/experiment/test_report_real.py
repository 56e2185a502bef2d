"""What runs and comparisons really leave on disk is read, and the page's command makes it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimat.cli import main
from dimat.tools.format import interval, spread_text
from dimat.tools.records.sources import read_sources
from dimat.tools.report.compared import Compared, compare
from dimat.tools.report.differences import differences
from dimat.tools.report.page import page

QUICK = """
agents: 3
rounds: 2
pretrain_epochs: 1
local_steps: 2
threads: 1
data: {split: iid, train_images: 240}
matching: {images: 50}
"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compared]:
    """A comparison of two methods, of which one exchanges while it trains, as ``dimat`` made it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("real"))
        Path("quick.yaml").write_text(QUICK)
        methods = ["--methods", "dimat,cdsgd", "--seeds", "0..1"]
        assert main(["compare", "quick.yaml", *methods, "--out", "c"]) == 0
        yield compare(read_sources(["c"]))


def scores(compared: Compared) -> list[float | None]:
    return [run.score for run in compared.runs]


def test_a_comparison_is_read_and_its_command_makes_it_again(
    compared: Compared, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = [(x.method, x.finished) for x in compared.runs]
    assert methods == [("dimat", True)] * 2 + [("cdsgd", True)] * 2
    for run in compared.runs:
        summary = json.loads(Path(run.folder, "summary.json").read_text())
        assert run.score == summary["test_accuracy_mean"]
        assert run.graph is not None
        assert run.shards is not None
        assert len(run.diagnostics) == 2
    assert "Not recorded" not in page(compared)
    [source] = compared.sources
    assert main(shlex.split(source.command)[1:]) == 0
    assert scores(compare(read_sources(["again"]))) == scores(compared)
    [run] = read_sources(["c/cells/seed=0"])
    assert main([*shlex.split(run.command)[1:], "--out", "run"]) == 0
    first = [x.score for x in compared.runs if x.seed == 0]
    assert scores(compare(read_sources(["run"]))) == first
    assert len(compare(read_sources(["c", "run"])).runs) == 4  # the same, and so counted once


def test_differences_and_accuracies_are_those_that_the_comparison_printed(
    compared: Compared,
) -> None:
    printed = " ".join(Path("c/comparison.txt").read_text().split())
    found, metric = differences(compared), compared.metric
    assert [(x.series.method, x.after) for x in found] == [
        ("dimat", "merging"),
        ("dimat", "training"),
        ("cdsgd", "training"),
    ]
    for versus in found:
        score, difference = spread_text(versus.score, metric), interval(versus.difference, metric)
        said = f"{versus.after} {score} {difference}"
        assert said in printed
    assert interval(found[-1].difference, metric) in page(compared)
