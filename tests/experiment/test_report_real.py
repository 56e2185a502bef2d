"""What runs and comparisons really leave on disk is read, and the page's command makes it again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from dimat.cli import main
from dimat.tools.records.sources import read_sources
from dimat.tools.report.compared import Compared, compare
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


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compared:
    """A comparison of two methods, of which one exchanges while it trains, as ``dimat`` made it."""
    monkeypatch.chdir(tmp_path)
    Path("quick.yaml").write_text(QUICK)
    assert (
        main(["compare", "quick.yaml", "--methods", "dimat,cdsgd", "--seeds", "0", "--out", "c"])
        == 0
    )
    return compare(read_sources(["c"]))


def accuracies(compared: Compared) -> list[float | None]:
    return [run.accuracy for run in compared.runs]


def test_a_comparison_is_read_and_its_command_makes_it_again(
    compared: Compared, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [(x.method, x.finished) for x in compared.runs] == [("dimat", True), ("cdsgd", True)]
    for run in compared.runs:
        summary = json.loads(Path(run.folder, "summary.json").read_text())
        assert run.accuracy == summary["test_accuracy_mean"]
        assert run.graph is not None
        assert run.shards is not None
        assert len(run.diagnostics) == 2
    assert "Not recorded" not in page(compared)
    [source] = compared.sources
    assert main(shlex.split(source.command)[1:]) == 0
    assert accuracies(compare(read_sources(["again"]))) == accuracies(compared)
    [run] = read_sources(["c/cells/seed=0"])
    assert main([*shlex.split(run.command)[1:], "--out", "run"]) == 0
    assert accuracies(compare(read_sources(["run"]))) == accuracies(compared)
    assert len(compare(read_sources(["c", "run"])).runs) == 2  # the same, and so counted once
