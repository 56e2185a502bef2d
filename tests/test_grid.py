"""``python -m benchmarks.grid``: cells that go on after a stop, and a table of what is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import grid
from benchmarks.grid import STOPPED, cells_of, estimate, first_at, parsed, table, work

from dimat.tools.compare.spec import Cell
from dimat.tools.format import human_bytes, human_seconds
from dimat.tools.records.curve import Measurement

FEW = ["--only", "cifar10,iid,ring,5,vgg11", "cifar10,iid,full,5,vgg11", "--rounds", "2"]
FEW += ["--pretrain_epochs", "1", "--model", "mlp", "--images", "500", "--seeds", "0"]


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Two cells of random images."""
    x = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 3), dtype=np.uint8)
    y = np.arange(600) % 10
    path = tmp_path / "noise.npz"
    np.savez(path, train_x=x, train_y=y, test_x=x[:50], test_y=y[:50])
    monkeypatch.setitem(grid.SOURCES, "cifar10", str(path))
    monkeypatch.setitem(grid.SOURCES, "cifar100", str(tmp_path / "nowhere.npz"))
    return cells_of(parsed(FEW))


def accuracies(folder: Path) -> dict[str, list[float]]:
    """All that was measured, by run folder."""
    return {
        str(path.relative_to(folder).parent): [
            json.loads(line)["test_accuracy"] for line in path.read_text().splitlines()
        ]
        for path in sorted(folder.rglob("metrics.jsonl"))
    }


def test_the_grid_has_48_cells_a_seed_and_they_are_of_the_paper() -> None:
    every = cells_of(parsed([]))
    assert len(every) == 48 * 3
    assert len({cell.name for cell in every}) == len(every)
    assert [cell.seed for cell in every] == [0] * 48 + [1] * 48 + [2] * 48
    own = every[0].config
    assert (own.optimizer.name, own.matching.gauge, own.width) == ("msgd", "pairwise", 1.0)
    assert {cell.config.model for cell in every} == {"resnet20", "vgg11"}
    chosen = cells_of(parsed(["--only", "ring,10,by-class", "cifar100,full,5", "--seeds", "4"]))
    assert {(c.point["topology"], c.config.agents) for c in chosen} == {("ring", 10), ("full", 5)}
    assert len(chosen) == 4 + 4
    with pytest.raises(SystemExit):
        parsed(["--only", "rign"])


@pytest.mark.slow
def test_calls_without_time_get_on_and_come_to_what_one_call_comes_to(
    tmp_path: Path, cells: list[Cell]
) -> None:
    pieces, whole = tmp_path / "pieces", tmp_path / "whole"
    assert work(cells, pieces, 0.0, lambda: 0.0) == STOPPED
    assert not (pieces / "cells").exists()
    calls = 1
    while work(cells, pieces, 1e-9, lambda: 0.0) == STOPPED:  # one unit of work each
        calls += 1
        assert calls < 50
    assert calls > 2 * 6  # two rounds of six methods, in two cells
    assert work(cells, whole, 1e9) == 0
    assert accuracies(pieces) == accuracies(whole)
    done = {path: path.stat().st_mtime_ns for path in whole.rglob("*.json*")}
    assert work(cells, whole, 1e9) == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.json*")} == done


def test_the_table_says_what_is_measured_and_what_waits(tmp_path: Path, cells: list[Cell]) -> None:
    out = tmp_path / "out"
    assert work(cells[:1], out, 1e9) == 0
    others = cells_of(parsed(["--only", "cifar100,iid,ring,5,vgg11"]))
    names = {cell.name: cell for cell in cells}
    (out / "estimates.json").write_text(json.dumps({grid.estimate_name(cells[1]): 1.25}))
    lines = table([*names.values(), *others], out, 0.0)
    measured = [
        line.split(" | ") for line in lines if line.startswith("| cifar10-iid-ring-5-vgg11")
    ]
    assert [own[1] for own in measured] == ["dimat", "wa", "local", "cdmsgd", "sgp", "cga"]
    assert {own[2] for own in measured} == {"1"}
    at_once = ("0.0", "0 s", "0 B")
    assert {(own[7], own[8], own[9].strip(" |")) for own in measured} == {at_once}
    waits = "waiting | 1 of 1 | 1.25 h a seed, estimated | – | – | – | – | – | – |"
    assert f"| cifar10-iid-full-5-vgg11 | {waits}" in lines
    missing = next(line for line in lines if line.startswith("| cifar100"))
    assert "waiting for" in missing
    assert "nowhere.npz | 3 of 3 | not estimated" in missing
    assert lines[-1].startswith("1.2 h are estimated for all that waits, without 3 cell(s)")


def test_methods_that_are_done_are_in_the_table_while_their_cell_waits(
    tmp_path: Path, cells: list[Cell]
) -> None:
    out = tmp_path / "out"
    assert work(cells[:1], out, 1e9) == 0
    folder = out / "cells" / cells[0].name
    for own in (folder / "controls/sgp", folder / "controls/cga"):
        (own / "summary.json").unlink()
    *measured, waits = table(cells[:1], out, 2.0)[2:-2]
    assert [line.split(" | ")[1] for line in measured] == ["dimat", "wa", "local", "cdmsgd"]
    assert {line.split(" | ")[8] for line in measured} == {"–"}  # 200 % is never reached
    assert "| waiting, begun | 1 of 1 |" in waits


def test_what_it_took_is_counted_from_the_end_of_pre_training(
    tmp_path: Path, cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert work(cells[:1], tmp_path, 1e9) == 0
    runs = grid.finished_runs(cells[:1], tmp_path)["wa"]
    monkeypatch.setattr(grid, "first_at", lambda rounds, goal: rounds[2])
    (line,) = grid.measured_lines("cell", {"wa": runs}, None)
    start, _, end = runs[0].curve.rounds
    assert start.busy_s
    assert end.busy_s
    took = [human_seconds(end.busy_s - start.busy_s), f"{human_bytes(end.sent_bytes)} |"]
    assert line.split(" | ")[7:] == ["2.0", *took]


def test_cells_without_data_wait_and_those_that_fail_stop_no_other(
    tmp_path: Path, cells: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    others = cells_of(parsed(["--only", "cifar100,iid,ring,5,vgg11", "--seeds", "0"]))
    assert work(others, tmp_path / "none", 1e9) == STOPPED
    broken = cells_of(parsed([*FEW[:-2], "--seeds", "1", "--images", "100"]))[:1]
    assert work([*broken, cells[0]], tmp_path / "out", 1e9) == 1
    assert "FAILED: split 'iid' gives agent 0 20 training samples" in capsys.readouterr().err
    assert (tmp_path / "out/cells" / cells[0].name / "summary.json").exists()


def test_the_first_round_that_reaches_a_goal_is_a_measured_one() -> None:
    rounds = [Measurement(k, "merged", {0: score}) for k, score in enumerate((0.1, 0.5, 0.4, 0.6))]
    assert first_at([rounds[0], Measurement(1), *rounds[1:]], 0.5) == rounds[1]
    assert first_at(rounds, 0.7) is None


@pytest.mark.slow
def test_hours_are_foreseen_once_for_a_point(tmp_path: Path, cells: list[Cell]) -> None:
    assert estimate(cells[:1], tmp_path, 0.0, lambda: 0.0) == STOPPED
    assert not (tmp_path / "estimates.json").exists()
    assert estimate(cells[:1], tmp_path, 1.0, lambda: 0.0) == 0
    found = grid.estimates(tmp_path)
    assert found[grid.estimate_name(cells[0])] > 0
    assert estimate(cells[:1], tmp_path, 0.0, lambda: 0.0) == 0  # nothing is left to foresee
