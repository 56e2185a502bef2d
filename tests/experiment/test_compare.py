"""A comparison: what is run and what is not, what is refused, what is left when a cell fails."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests import fork_server

from dimat import RunConfig
from dimat.errors import ConfigError, DataError, RecordError
from dimat.experiment.config.config import (
    CheckpointConfig,
    DataConfig,
    MatchingConfig,
    RecalibrationConfig,
)
from dimat.experiment.progress import Progress
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.record.run_folder import RunFolder
from dimat.tools.compare.folder import open_folder, spec_to_yaml
from dimat.tools.compare.progress import LiveCells
from dimat.tools.compare.run import compare
from dimat.tools.compare.spec import Spec, expand
from dimat.tools.compare.table import Point, point_text

TINY = RunConfig(
    agents=2,
    rounds=1,
    pretrain_epochs=0,
    local_steps=2,
    threads=1,
    width=0.25,
    data=DataConfig(split="iid", train_images=200),
    matching=MatchingConfig(images=50),
    recalibration=RecalibrationConfig(images=50),
)
SPEC = Spec(TINY, ("dimat", "local"), (0, 1), {"topology.name": ("ring", "star")})
NAMES = [cell.name for cell in expand(SPEC)]
METHODS = {"dimat": 0.5, "local": 0.25}


class Runner:
    """Takes the place of real runs: writes folders as they do, and counts."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failing: dict[str, BaseException] = {}

    def __call__(
        self, config: RunConfig, observer: Progress | None = None, *, pretrained: Path
    ) -> None:
        assert config.out is not None
        out = Path(config.out)
        assert pretrained == out.parent.parent / "pretrained"
        self.ran.append(out.name)
        folder = RunFolder.open(out, config, config.method)
        if out.name in self.failing:
            raise self.failing[out.name]
        for method in (config.method, *config.controls):
            own = folder if method == config.method else folder.control(method)
            accuracy = METHODS[method] + config.seed / 100
            line = {"round": 0, "agent": 0, "phase": "trained", "test_accuracy": accuracy}
            own.append(line | {"sent_bytes": 8, "steps": 1, "busy_s": 0.5})
            own.write_json("summary", {"test_accuracy_mean": accuracy, "rounds": 0})


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    found = Runner()
    monkeypatch.setattr("dimat.experiment.run.run_or_resume", found)
    return found


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "comparison.csv").open() as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> list[str]:
    return [(folder / f"comparison.{end}").read_text() for end in ("csv", "txt")]


def test_files_that_grow_with_their_cells_are_those_that_are_read_afresh(
    tmp_path: Path, runner: Runner
) -> None:
    runner.failing[NAMES[2]] = DataError("no images")
    compare(SPEC, tmp_path / "out")
    grown = files(tmp_path / "out")
    compare(SPEC, tmp_path / "out")
    assert files(tmp_path / "out") == grown
    assert "unfinished: seed 0" in grown[1]
    runner.failing.clear()
    compare(SPEC, tmp_path / "out")
    grown = files(tmp_path / "out")
    compare(SPEC, tmp_path / "out")
    assert files(tmp_path / "out") == grown
    assert "unfinished" not in grown[1]


def test_a_cell_that_ends_costs_one_grid_point_and_one_that_was_done_no_parsing(
    tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def counted(point: Point) -> str:
        told.append(point.name)
        return point_text(point)

    monkeypatch.setattr("dimat.tools.compare.run.point_text", counted)
    compare(SPEC, tmp_path / "out")
    ring, star = "topology.name=ring", "topology.name=star"
    assert told == [ring, star, ring, ring, star, star]
    monkeypatch.setattr("dimat.tools.compare.folder.load_config", None)
    compare(SPEC, tmp_path / "out")


def test_settings_that_are_written_in_another_way_are_the_same(
    tmp_path: Path, runner: Runner
) -> None:
    compare(SPEC, tmp_path / "out")
    path = tmp_path / "out/cells" / NAMES[0] / "config.yaml"
    path.write_text(f"# by hand\n{path.read_text()}")
    compare(SPEC, tmp_path / "out")
    assert runner.ran == NAMES


def test_every_cell_is_run_once_and_the_first_method_is_the_main_one(
    tmp_path: Path, runner: Runner
) -> None:
    result = compare(SPEC, tmp_path / "out")
    assert runner.ran == NAMES
    assert result.failures == {}
    main = json.loads((tmp_path / "out/cells" / NAMES[1] / "summary.json").read_text())
    control = tmp_path / "out/cells" / NAMES[1] / "controls/local/summary.json"
    assert main["test_accuracy_mean"] == 0.51
    assert json.loads(control.read_text())["test_accuracy_mean"] == 0.26
    assert [row["test_accuracy_mean"] for row in rows(tmp_path / "out")[:4]] == [
        *("0.5", "0.25", "0.51", "0.26")
    ]
    assert "50.5 ± 0.7" in (tmp_path / "out/comparison.txt").read_text()


def test_the_same_command_again_runs_nothing_and_says_the_same(
    tmp_path: Path, runner: Runner
) -> None:
    first = compare(SPEC, tmp_path / "out")
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    runner.ran.clear()
    again = compare(SPEC, tmp_path / "out")
    assert runner.ran == []
    assert again == first
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == written


def test_only_unfinished_cells_are_run_again(tmp_path: Path, runner: Runner) -> None:
    compare(SPEC, tmp_path / "out")
    cells = tmp_path / "out/cells"
    (cells / NAMES[1] / "summary.json").unlink()
    (cells / NAMES[2] / "controls/local/summary.json").unlink()
    runner.ran.clear()
    compare(SPEC, tmp_path / "out")
    assert runner.ran == NAMES[1:3]


def test_a_cell_that_fails_stops_no_other_and_is_tried_again(
    tmp_path: Path, runner: Runner
) -> None:
    runner.failing = {NAMES[0]: DataError("no images"), NAMES[2]: ZeroDivisionError("by\nzero")}
    result = compare(SPEC, tmp_path / "out")
    assert result.failures == {
        NAMES[0]: "no images",
        NAMES[2]: "ZeroDivisionError: by zero",
    }
    assert runner.ran == NAMES
    assert "Traceback" in (tmp_path / f"out/errors/{NAMES[2]}.txt").read_text()
    assert [row["finished"] for row in rows(tmp_path / "out")[::2]] == [
        *("false", "true", "false", "true")
    ]
    text = (tmp_path / "out/comparison.txt").read_text()
    assert "topology.name=ring · n = 1 of 2 seeds · unfinished: seed 0" in text
    runner.failing, runner.ran = {}, []
    assert compare(SPEC, tmp_path / "out").failures == {}
    assert runner.ran == [NAMES[0], NAMES[2]]
    assert "unfinished" not in (tmp_path / "out/comparison.txt").read_text()
    assert not (tmp_path / "out/errors").exists()


def test_the_tables_are_written_anew_whenever_a_cell_finishes(
    tmp_path: Path, runner: Runner
) -> None:
    runner.failing = {NAMES[2]: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        compare(SPEC, tmp_path / "out")
    assert runner.ran == NAMES[:3]
    finished = [row["finished"] for row in rows(tmp_path / "out")]
    assert finished == ["true"] * 4 + ["false"] * 4


def test_what_cells_share_is_kept_until_all_are_finished(tmp_path: Path, runner: Runner) -> None:
    runner.failing = {NAMES[3]: DataError("no images")}
    (tmp_path / "out/pretrained").mkdir(parents=True)
    shutil.rmtree(tmp_path / "out")
    with open_folder(tmp_path / "out", SPEC, ()) as folder:
        folder.pretrained.mkdir()
    compare(SPEC, tmp_path / "out")
    assert (tmp_path / "out/pretrained").exists()
    runner.failing = {}
    compare(SPEC, tmp_path / "out")
    assert not (tmp_path / "out/pretrained").exists()


def test_a_folder_of_another_comparison_is_refused_with_what_differs(
    tmp_path: Path, runner: Runner
) -> None:
    compare(SPEC, tmp_path / "out")
    other = replace(SPEC, base=replace(TINY, batch_size=16))
    with pytest.raises(RecordError) as caught:
        compare(other, tmp_path / "out")
    assert "holds another comparison: 'batch_size' is 16, there 32" in str(caught.value)
    assert "--out" in str(caught.value)
    with pytest.raises(RecordError, match="'seeds' is 0,1,2, there 0,1; give another folder"):
        compare(replace(SPEC, seeds=(0, 1, 2)), tmp_path / "out")


def test_settings_that_change_no_result_may_change_when_a_comparison_goes_on(
    tmp_path: Path, runner: Runner
) -> None:
    compare(SPEC, tmp_path / "out")
    (tmp_path / f"out/cells/{NAMES[3]}/controls/local/summary.json").unlink()
    runner.ran.clear()
    base = replace(TINY, checkpoint=CheckpointConfig(5), vectorize=1)
    assert compare(replace(SPEC, base=base), tmp_path / "out").failures == {}
    assert runner.ran == NAMES[3:]


def test_a_folder_of_anything_else_is_refused(tmp_path: Path, runner: Runner) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RecordError, match=r"is no comparison \(it lacks comparison.yaml\)"):
        compare(SPEC, tmp_path)
    with pytest.raises(RecordError, match="is a file: give a folder by --out"):
        compare(SPEC, tmp_path / "thesis.tex")
    assert runner.ran == []
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, runner: Runner) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"'out': '.*' cannot be written: "):
        compare(SPEC, tmp_path / "file" / "out")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("inside", ["", "controls/local/"])
def test_a_cell_that_is_not_what_it_is_called_is_refused_by_name(
    tmp_path: Path, runner: Runner, inside: str
) -> None:
    compare(SPEC, tmp_path / "out")
    change(tmp_path / f"out/cells/{NAMES[3]}/{inside}config.yaml", "rounds: 1", "rounds: 7")
    runner.ran.clear()
    with pytest.raises(RecordError) as caught:
        compare(SPEC, tmp_path / "out")
    assert f"cell '{NAMES[3]}' is not of this comparison" in str(caught.value)
    assert "has 'rounds' 7, not 1" in str(caught.value)
    change(tmp_path / f"out/cells/{NAMES[3]}/{inside}config.yaml", "rounds: 7", "rounds: x")
    with pytest.raises(RecordError, match=f"cell '{NAMES[3]}': config file .*'rounds' is 'x'"):
        compare(SPEC, tmp_path / "out")
    assert runner.ran == []


def test_a_run_that_is_no_cell_is_refused_by_name(tmp_path: Path, runner: Runner) -> None:
    compare(SPEC, tmp_path / "out")
    (tmp_path / "out/cells/seed=99").mkdir()
    with pytest.raises(RecordError, match="seed=99' is no cell of this comparison"):
        compare(SPEC, tmp_path / "out")


def test_a_cell_that_was_killed_as_it_began_is_begun_again(tmp_path: Path, runner: Runner) -> None:
    compare(SPEC, tmp_path / "out")
    control = tmp_path / "out/cells" / NAMES[2] / "controls/local"
    main = tmp_path / "out/cells" / NAMES[1]
    for folder in (main, control):
        shutil.rmtree(folder)
        (folder / "states").mkdir(parents=True)
        (folder / "config.yaml.partial").write_text("agents")
    runner.ran.clear()
    assert compare(SPEC, tmp_path / "out").failures == {}
    assert runner.ran == NAMES[1:3]


def test_a_comparison_that_was_killed_as_it_began_is_begun_again(
    tmp_path: Path, runner: Runner
) -> None:
    (tmp_path / ".lock").write_text("")
    (tmp_path / "comparison.yaml.partial").write_text("digest: ")
    assert compare(SPEC, tmp_path).failures == {}


def test_two_at_work_in_one_folder_are_refused(tmp_path: Path, runner: Runner) -> None:
    with (
        open_folder(tmp_path / "out", SPEC, ()),
        pytest.raises(RecordError, match="another dimat compare is at work in"),
    ):
        compare(SPEC, tmp_path / "out")
    assert compare(SPEC, tmp_path / "out").failures == {}


def test_every_cell_is_checked_before_anything_runs(tmp_path: Path, runner: Runner) -> None:
    grid: dict[str, tuple[object, ...]] = {"topology.name": ("ring", "rnig")}
    with pytest.raises(ConfigError) as caught:
        compare(replace(SPEC, grid=grid), tmp_path / "out")
    assert str(caught.value).startswith("cell 'topology.name=rnig,seed=0': setting 'topology.name'")
    assert "did you mean 'ring'?" in str(caught.value)
    with pytest.raises(ConfigError, match="'locl', which is unknown: did you mean 'local'"):
        compare(replace(SPEC, methods=("dimat", "locl")), tmp_path / "out")
    assert runner.ran == []
    assert not (tmp_path / "out").exists()


def test_more_than_a_thousand_cells_must_be_wanted(tmp_path: Path, runner: Runner) -> None:
    many = replace(SPEC, seeds=tuple(range(501)))
    with pytest.raises(ConfigError, match="makes 1,002 cells: add --yes"):
        compare(many, tmp_path / "out")
    assert len(compare(replace(SPEC, seeds=(0,)), tmp_path / "few", yes=True).points) == 2


def test_fewer_than_one_job_is_refused(tmp_path: Path, runner: Runner) -> None:
    with pytest.raises(ConfigError, match="'jobs' is 0: must be >= 1"):
        compare(SPEC, tmp_path / "out", jobs=0)


def test_where_stderr_is_no_terminal_there_is_a_line_for_every_cell(
    tmp_path: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.failing = {NAMES[1]: DataError("no images")}
    compare(SPEC, tmp_path / "out", progress=LiveCells())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"cell 1/4 {NAMES[0]}: dimat 50.0 %  local 25.0 %"
    assert lines[1] == f"cell 2/4 {NAMES[1]}: failed: no images"
    assert len(lines) == 4
    compare(SPEC, tmp_path / "out", progress=LiveCells())
    assert capsys.readouterr().err.splitlines()[0] == "3 of 4 cells are finished already"


def test_on_a_terminal_a_bar_shows_cells_done_and_at_work(tmp_path: Path, runner: Runner) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    progress = LiveCells(console)
    progress.begin(1, 4)
    progress.started("a")
    progress.stage("a", "wa 3/20")
    progress.started("b" * 200)
    progress.ended("a", "wa 50.0 %")
    progress.started("c")
    progress.close()
    shown = text.getvalue()
    assert "1 of 4 cells are finished already" in shown
    assert "cell 2/4 a: wa 50.0 %" in shown
    assert "2/4" in shown[shown.index("wa 50.0 %") :]
    assert max(len(line) for line in shown.replace("\r", "\n").split("\n")) < 150


TIMES = ("busy_s", "wall_s", "at_equal_time")


def timeless(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows(folder)]


REAL = Spec(TINY, ("wa", "local"), (0, 1), {"data.source": ("npz:none.npz", "digits")})


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real comparison, cell after cell; half of its cells fail."""
    folder = tmp_path_factory.mktemp("compare") / "out"
    failures = compare(REAL, folder).failures
    assert [*failures] == [cell.name for cell in expand(REAL)[:2]]
    assert all("none.npz" in error for error in failures.values())
    return folder


@pytest.mark.slow  # below, what two processes did until they were killed is what one does
def test_two_jobs_give_what_one_gives(tmp_path: Path, in_turn: Path) -> None:
    failures = compare(REAL, tmp_path / "out", jobs=2).failures
    assert sorted(failures) == [cell.name for cell in expand(REAL)[:2]]
    assert timeless(tmp_path / "out") == timeless(in_turn)
    assert [row["finished"] for row in rows(in_turn)] == ["false"] * 4 + ["true"] * 4


def test_what_cells_share_is_pretrained_once_and_by_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[bool] = []
    write = CheckpointFolder.write

    def watch(self: CheckpointFolder, checkpoint: Checkpoint) -> None:
        if self.path.parent == tmp_path / "pretrained":
            with (self.path / ".lock").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    alone.append(False)
                except BlockingIOError:
                    alone.append(True)
        write(self, checkpoint)

    monkeypatch.setattr(CheckpointFolder, "write", watch)
    base = replace(TINY, pretrain_epochs=1)
    spec = replace(SPEC, base=base, methods=("wa", "local"), seeds=(0,))
    assert compare(spec, tmp_path).failures == {}
    assert alone == [True]


def wait_for(what: Callable[[], Any], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


@contextmanager
def begun(spec: Spec, folder: Path, sign: str) -> Iterator[subprocess.Popen[str]]:
    """A comparison in two processes, begun as by a terminal, once a file ``sign`` is there."""
    (folder / "base.yaml").write_text(spec_to_yaml(spec))
    command = ["dimat", "compare", str(folder / "base.yaml"), "--jobs=2"]
    process = fork_server.start(
        [*command, f"--out={folder / 'out'}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with process:
        try:
            wait_for(lambda: [*(folder / "out").glob(sign)] or process.poll() is not None)
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_it_and_its_processes_at_once(tmp_path: Path) -> None:
    spec = replace(SPEC, base=replace(TINY, rounds=1_000_000), methods=("wa",))
    with begun(spec, tmp_path, "cells/*seed=1/metrics.jsonl") as process:
        workers = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert len(workers) >= 2
    kept = f"what was recorded is kept in {tmp_path / 'out'}: the same command goes on"
    assert kept in err
    assert "Traceback" not in err
    wait_for(lambda: not any(map(alive, workers)))


@pytest.mark.slow
def test_when_it_is_killed_its_processes_end_and_the_same_command_goes_on(tmp_path: Path) -> None:
    spec = replace(SPEC, base=replace(TINY, rounds=8), methods=("wa", "local"))
    with begun(spec, tmp_path, "cells/*/controls/local/summary.json") as process:
        workers = children(process.pid)
        process.kill()
        process.communicate()
    assert len(workers) >= 2
    wait_for(lambda: not any(map(alive, workers)))
    assert [row for row in rows(tmp_path / "out") if row["finished"] == "false"]
    assert compare(spec, tmp_path / "out").failures == {}
    assert compare(spec, tmp_path / "whole").failures == {}
    assert timeless(tmp_path / "out") == timeless(tmp_path / "whole")
