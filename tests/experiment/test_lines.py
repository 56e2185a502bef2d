"""Lines of metrics are under digests: what changed behind a run's back is named by every reader."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import pytest
from tests.experiment.test_beginnings import TINY
from tests.experiment.test_resume import StopAfter, Stopped, content

import dimat
from dimat.cli import main
from dimat.errors import RecordError
from dimat.experiment.config.config import CheckpointConfig
from dimat.experiment.progress import Silent
from dimat.experiment.record import lines as lines_module
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.record.lines import LineFiles, read_lines
from dimat.experiment.record.run_folder import RunFolder
from dimat.tools.compare.spec import Cell
from dimat.tools.compare.trial import read_cell
from dimat.tools.records.sources import read_source

CONFIG = replace(TINY, rounds=3, controls=("local",), checkpoint=CheckpointConfig(every=1))
BREAKS = {"not UTF-8": 0xFF, "not JSON": ord("}"), "another number": ord("9")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that came to its end."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return dimat.run(replace(CONFIG, out=str(out))).folder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped with lines under a checkpoint, and some after it."""
    out = tmp_path_factory.mktemp("half") / "run"
    with pytest.raises(Stopped):
        dimat.run(replace(CONFIG, out=str(out)), callbacks=[StopAfter(10)])
    assert CheckpointFolder(out / "checkpoints").numbers() == [1]
    return out


@pytest.fixture
def finished(tmp_path: Path, whole: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(whole, tmp_path / "finished"))


@pytest.fixture
def stopped(tmp_path: Path, half: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(half, tmp_path / "stopped"))


def change(path: Path, line: int, byte: int) -> None:
    """Put another byte where the number of the round stands."""
    found = path.read_bytes().split(b"\n")
    text = bytearray(found[line - 1])
    text[text.index(b'"round": ') + 9] = byte
    found[line - 1] = bytes(text)
    path.write_bytes(b"\n".join(found))


@pytest.mark.parametrize("byte", BREAKS.values(), ids=BREAKS.keys())
@pytest.mark.parametrize("file", ["metrics.jsonl", "diagnostics.jsonl"])
def test_a_changed_line_under_a_checkpoint_is_not_resumed(
    stopped: Path, capsys: pytest.CaptureFixture[str], file: str, byte: int
) -> None:
    out, before = stopped, content(stopped)
    change(out / file, 1, byte)
    assert main(["resume", str(out)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    where = (
        f"'{out / file}', line 1 is broken" if byte != BREAKS["another number"] else "lines 1 to"
    )
    assert where in error
    change(out / file, 1, ord("1") if file == "diagnostics.jsonl" else ord("0"))
    assert content(out) == before  # nothing was written over


def test_a_changed_line_after_the_checkpoint_is_written_anew(stopped: Path, whole: Path) -> None:
    metrics = stopped / "metrics.jsonl"
    change(metrics, len([*read_lines(metrics)]), 0xFF)
    dimat.resume(stopped)
    assert content(stopped) == content(whole)


def test_a_checkpoint_of_an_earlier_version_has_no_digests_and_is_resumed(
    stopped: Path, whole: Path
) -> None:
    store = CheckpointFolder(stopped / "checkpoints")
    kept = store.read(1)
    old = {name: value for name, value in kept.meta.items() if name != "lines_sha256"}
    assert old != kept.meta
    store.write(Checkpoint(1, old, kept.tensors))
    dimat.resume(stopped)
    assert content(stopped) == content(whole)


def report(out: Path) -> object:
    return read_source(str(out))


def compare(out: Path) -> object:
    return read_cell(out, Cell("seed=0", {}, 0, CONFIG))


@pytest.mark.parametrize("byte", BREAKS.values(), ids=BREAKS.keys())
@pytest.mark.parametrize("read", [dimat.resume, report, compare])
def test_a_changed_line_of_a_finished_run_is_named_by_all_who_read_it(
    finished: Path, read: Callable[[Path], object], byte: int
) -> None:
    file = finished / "metrics.jsonl"
    read(finished)
    change(file, 2, byte)
    where = "lines 1 to" if byte == BREAKS["another number"] else "line 2"
    with pytest.raises(RecordError, match=rf"{file}'?, {where}"):
        read(finished)


@pytest.mark.parametrize("read", [report, compare])
def test_a_last_line_that_is_whole_is_not_called_half_written(
    finished: Path, read: Callable[[Path], object]
) -> None:
    out = finished
    summary = json.loads((out / "summary.json").read_text())
    old = {name: value for name, value in summary.items() if not name.endswith("_sha256")}
    assert old != summary
    (out / "summary.json").write_text(json.dumps(old))  # of an earlier version: no digest
    read(out)
    last = len([*read_lines(out / "metrics.jsonl")])
    change(out / "metrics.jsonl", last, 0xFF)
    with pytest.raises(RecordError, match=f"line {last}"):
        read(out)


def test_a_broken_summary_is_named(finished: Path) -> None:
    for text in (b"{", b"\xff", b"[]"):
        (finished / "summary.json").write_bytes(text)
        with pytest.raises(RecordError, match="summary.json"):
            RunFolder(finished, CONFIG).summary()


def test_digests_are_those_of_the_files_however_they_came_to_be(tmp_path: Path) -> None:
    def check(files: LineFiles) -> None:
        expected = hashlib.sha256((tmp_path / "metrics.jsonl").read_bytes()).hexdigest()
        assert files.digests() == {"metrics.jsonl": expected}

    files = LineFiles(tmp_path)
    for number in range(3):
        files.append({"round": number})
        check(files)
    moment = files.moment()
    for again in (files, LineFiles(tmp_path)):  # an agent goes back, a run goes on
        again.append({"round": 3})
        check(again)
        again.check_lines(moment)
        again.rewind(moment["sizes"])
        assert [line["round"] for line in again.lines()] == [0, 1, 2]
        check(again)
        again.append({"round": 4})
        check(again)


def test_no_checkpoint_reads_again_what_was_written_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, read = LineFiles(tmp_path), []
    files.append({"round": 0})
    monkeypatch.setattr(lines_module, "_content", read.append)
    for number in range(50):
        files.append({"round": number})
        files.moment()
    assert read == []


class Told(dict[str, object]):
    """A line of which it can be seen whether anybody holds it."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def test_no_line_of_an_earlier_round_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: WeakSet[Told] = WeakSet()
    rounds: list[set[object]] = []
    write = LineFiles.append

    def append(files: LineFiles, line: Mapping[str, object], name: str = "metrics") -> Told:
        own = Told(write(files, line, name))
        held.add(own)
        return own

    class Look(Silent):
        def note(self, text: str) -> None:
            gc.collect()
            rounds.append({line["round"] for line in held})

    monkeypatch.setattr(LineFiles, "append", append)
    dimat.run(replace(TINY, rounds=4, controls=(), out=str(tmp_path / "run")), Look())
    assert rounds == [{0, 1}, {2}, {3}, {4}]  # of round 0 no news are told


TEXTS = {
    "a line break of Unicode": "a\u2028b\x85c\x0bd",
    "half a character": "a\ud800b",
    "a line feed": "a\nb\r\nc",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_whatever_a_peer_says_is_one_line(tmp_path: Path, text: str) -> None:
    files = LineFiles(tmp_path)
    said: Mapping[str, object] = {"round": 1, "why": text}
    assert files.append(said, "incidents") == said
    files.append({"round": 2}, "incidents")
    assert [*files.lines("incidents")] == [said, {"round": 2}]


def test_a_file_with_no_lines_has_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    assert [*LineFiles(tmp_path).lines()] == []
