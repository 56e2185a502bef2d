"""A disk that takes nothing more ends a run in one line, and the run goes on to the same bits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.experiment.file_faults import disk, full, no_file_longer_than, read_only
from tests.experiment.test_beginnings import TINY, everything
from tests.experiment.test_resume import Content, content

from dimat.cli import main
from dimat.errors import ConfigError, DimatError, WriteError, writing
from dimat.experiment.callbacks.tensorboard import TensorBoard
from dimat.experiment.config.config import CheckpointConfig
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.record.run_folder import RunFolder
from dimat.experiment.run import run_or_resume
from dimat.state import load_state, save_state
from dimat.testing.faults import Fault, Rehearsal
from dimat.tools.compare.folder import ComparisonFolder
from dimat.tools.merge import write as merge_report
from dimat.tools.report import write as report_write

CONFIG = replace(TINY, rounds=2, pretrain_epochs=1, controls=("local",))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Content, int]:
    """The run that no disk stopped, and how many changes it asks for."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with disk(out) as found:
        run_or_resume(replace(CONFIG, out=str(out)))
    return content(out), found.changes


@pytest.mark.parametrize(
    ("place", "error"),
    [(0.02, full), (0.2, read_only), (0.35, full), (0.5, full), (0.65, read_only), (0.8, full)],
)
def test_where_a_disk_takes_no_more_a_run_says_so_and_goes_on_later(
    tmp_path: Path, whole: tuple[Content, int], place: float, error: Callable[[], OSError]
) -> None:
    config = replace(CONFIG, out=str(tmp_path / "run"))
    with (
        disk(tmp_path / "run", int(place * whole[1]), error),
        pytest.raises(DimatError, match=f"run.* cannot be written: {error().strerror}"),
    ):
        run_or_resume(config)
    run_or_resume(config)
    assert content(tmp_path / "run") == whole[0]


@pytest.mark.parametrize("size", [500, 2500, 9000])  # within config.yaml, metrics, a state
def test_a_file_that_is_cut_short_by_a_full_disk_is_written_anew(tmp_path: Path, size: int) -> None:
    config = replace(CONFIG, pretrain_epochs=0, checkpoint=CheckpointConfig(every=0))
    config = replace(config, out=str(tmp_path / "run"))
    with no_file_longer_than(size), pytest.raises(WriteError, match="File too large"):
        run_or_resume(config)
    run_or_resume(config)
    run_or_resume(replace(config, out=str(tmp_path / "whole")))
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_on_a_read_only_disk_resume_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = RunFolder.create(tmp_path / "run", TINY, "wa").path
    with disk(out, 0, read_only):
        assert main(["resume", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dimat: error: ")
    assert f"cannot be written: Read-only file system; once it can be, 'dimat resume {out}'" in line


WRITES: list[tuple[str, Callable[[RunFolder], object]]] = [
    ("metrics.jsonl", lambda folder: folder.append({"round": 1})),
    ("metrics.jsonl", lambda folder: folder.rewind({})),
    ("summary.json", lambda folder: folder.write_json("summary", {})),
    ("states", lambda folder: RunFolder.open(folder.path, TINY, "wa")),
    ("controls/local", lambda folder: folder.control("local")),
]


@pytest.mark.parametrize(("file", "write"), WRITES)
def test_whatever_is_written_to_a_run_folder_names_its_file_if_it_cannot_be(
    tmp_path: Path, file: str, write: Callable[[RunFolder], object]
) -> None:
    folder = RunFolder.create(tmp_path / "run", TINY, "wa")
    folder.append({"round": 0})
    (folder.path / "states").rmdir()
    with (
        disk(tmp_path, 0, read_only),
        pytest.raises((WriteError, ConfigError), match=f"{file}.* cannot be written: Read-only"),
    ):
        write(folder)
    assert [line["round"] for line in folder.lines()] == [0]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_it(tmp_path: Path) -> None:
    store = CheckpointFolder(tmp_path / "checkpoints", keep=1)
    store.write(Checkpoint(1, {}, {"x": torch.ones(1)}))
    before = everything(tmp_path)
    with no_file_longer_than(1000), pytest.raises(WriteError, match="too large"):
        store.write(Checkpoint(2, {}, {"x": torch.ones(1000)}))
    assert everything(tmp_path) == before  # and what was begun takes no room
    with disk(tmp_path, 2, read_only), pytest.raises(WriteError, match="Read-only"):
        store.write(Checkpoint(2, {}, {"x": torch.ones(2)}))
    found = store.latest(pytest.fail)
    assert found is not None
    assert found.number == 1


def test_a_state_that_cannot_be_written_leaves_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_state({"x": torch.ones(1)}, path)
    with no_file_longer_than(1000), pytest.raises(OSError, match="File too large"):
        save_state({"x": torch.ones(1000)}, path)
    assert load_state(path)["x"].tolist() == [1.0]


def test_tensorboard_says_once_that_a_disk_is_full(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = TensorBoard()
    log.started("wa", TINY, tmp_path, -1)
    line = {"round": 0, "agent": 0, "phase": "trained", "test_accuracy": 0.5}
    log.measured("wa", line)
    with no_file_longer_than(100), pytest.raises(WriteError, match="tfevents.*File too large"):
        log.measured("wa", line)
    assert capfd.readouterr().err == ""


def test_a_fault_that_cannot_be_written_down_does_not_strike(tmp_path: Path) -> None:
    hood = SimpleNamespace(tamper={}, cut=pytest.fail)
    faults = SimpleNamespace(planned=[Fault(0, 1, "cut", 1)])
    rehearsal = Rehearsal(faults, 0, tmp_path / "faults.jsonl", hood)  # type: ignore[arg-type]
    with disk(tmp_path, 0, full), pytest.raises(WriteError, match="faults.jsonl cannot be written"):
        rehearsal.strike(1)


def at_every_change(write: Callable[[], object], under: Path, left: Callable[[], None]) -> None:
    """Write with a disk that takes no change, one, and so on: what it says, and what is left."""
    with disk(under) as counted:
        write()
    said = 0
    for k in range(counted.changes):
        with disk(under, k, read_only), suppress(WriteError, ConfigError):
            write()
            said -= 1  # it only did not tidy up
        said += 1
        left()
    assert said > 1


def test_the_tables_of_a_comparison_are_whole_or_old(tmp_path: Path) -> None:
    folder = ComparisonFolder(tmp_path)
    file, text = tmp_path / "comparison.csv", iter("abcdefgh")
    at_every_change(
        lambda: folder.write("comparison.csv", next(text) * 3),
        tmp_path,
        lambda: None if file.read_text() == "aaa" else pytest.fail("it was changed"),
    )

    def forget() -> None:
        with suppress(FileExistsError):
            folder.note_error("cell", "why")
        with disk(tmp_path, 0, read_only):
            folder.note_error("cell", "")

    with pytest.raises(WriteError, match="cell.txt cannot be written"):
        forget()


def test_a_report_is_whole_or_old(tmp_path: Path) -> None:
    out, text = tmp_path / "report", iter("abcdefghijklm")

    def whole() -> None:
        (hidden,) = [out] if out.exists() else tmp_path.glob(".report.old*")
        assert sorted(own.name for own in hidden.iterdir()) == ["data.csv", "index.html"]
        assert len({own.read_text() for own in hidden.iterdir()}) == 1
        hidden.replace(out)
        for other in tmp_path.glob(".report*"):
            shutil.rmtree(other)

    def write() -> None:
        new = next(text)
        report_write._write_folder(out, {"index.html": new, "data.csv": new})

    write()
    at_every_change(write, tmp_path, whole)


def test_a_report_of_one_file_is_whole_or_old(tmp_path: Path) -> None:
    out, text = tmp_path / "page.html", iter("abcdefghijklm")

    def whole() -> None:
        found = out.read_text()
        assert (len(found), len(set(found))) == (9, 1)

    def write() -> None:
        report_write._write_file(out, 9 * next(text))

    write()
    at_every_change(write, tmp_path, whole)


def test_an_earlier_report_that_cannot_be_put_back_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report"
    report_write._write_folder(out, {"index.html": "old"})
    replace_it, calls = Path.replace, []

    def once(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) > 1:
            raise full()
        return replace_it(self, target)

    monkeypatch.setattr(Path, "replace", once)
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        report_write._write_folder(out, {"index.html": "new"})
    (kept,) = tmp_path.iterdir()
    assert (kept / "index.html").read_text() == "old"


def test_a_merge_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    outputs = {"out": tmp_path / "m.safetensors", "report": tmp_path / "m.json"}
    written = [(outputs["out"], None)]
    config = SimpleNamespace(out="m", outputs=[*outputs.items()], written=written)
    result = SimpleNamespace(config=config, states=[{"x": torch.ones(9)}])

    def whole() -> None:
        for path in tmp_path.iterdir():
            assert path in outputs.values() or path.name.endswith(".partial")
        assert load_state(outputs["out"])["x"].tolist() == [1.0] * 9
        assert json.loads(outputs["report"].read_text()) == {}

    at_every_change(lambda: merge_report._write(result, "{}"), tmp_path, whole)  # type: ignore[arg-type]
    with no_file_longer_than(1), pytest.raises(ConfigError, match="File too large"):
        merge_report._write(result, "{}")  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path)) == ["m.json", "m.safetensors"]


def test_what_is_no_fault_of_a_disk_goes_through() -> None:
    with pytest.raises(ZeroDivisionError), writing(Path("a")):
        _ = 1 / 0
