"""``dimat doctor`` finds what is there, and says so where something does not work."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dimat.cli import main
from dimat.identity import Identity, authority, trust
from dimat.tools import doctor


def looked(capsys: pytest.CaptureFixture[str], code: int) -> tuple[dict[str, Any], str]:
    """Findings by name, and what is said on stderr."""
    assert main(["doctor", "--json"]) == code
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["ok"] == (code == 0)
    return {x["name"]: x for x in said["findings"]}, err


def test_where_all_works_it_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    found, err = looked(capsys, 0)
    assert err == ""
    assert found["torch"] == {
        "group": "versions",
        "name": "torch",
        "found": torch.__version__,
        "ok": True,
    }
    tested = [x["ok"] for x in found.values() if x["group"] == "self-test"]
    assert tested == [True] * 3
    assert found["devices"]["found"].startswith("cpu")
    assert not list(Path.cwd().glob(".dimat-doctor-*"))


def test_identities_are_signed_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()
    later = lambda: trust.now() + timedelta(minutes=next(looks))  # noqa: E731
    monkeypatch.setattr(authority, "now", later)
    assert len(doctor._identities(tmp_path)) == 2
    assert next(looks) > 2


def test_the_table_marks_what_failed_and_the_rest_is_looked_at(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(model: Any, states: Any, batches: Any) -> Any:
        both = {name: (x + states[1][name]) / 2 for name, x in states[0].items()}
        return SimpleNamespace(state=both)

    monkeypatch.setattr(doctor, "merge", plain)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    [line] = [line for line in out.splitlines() if "merge a permuted copy" in line]
    assert "RuntimeError: the merge of two equal networks is" in line
    assert out.count("FAILED") == 1
    assert "two agents heard each other" in out
    assert err == "dimat: error: 1 of what was looked at failed: merge a permuted copy\n"


def test_a_package_that_is_missing_is_an_error_and_an_extra_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["torch<9", "not-there>=1", 'nor-this>=2; extra == "more"', 'x; extra == "dev"']
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    monkeypatch.setattr(doctor, "_find", lambda: "")
    monkeypatch.setattr(doctor, "_merge", lambda: "")
    found, err = looked(capsys, 1)
    assert found["not-there"]["found"] == "missing"
    assert found["more"]["found"] == 'without nor-this: pip install "dimat[more]"'
    assert "dev" not in found
    assert err == "dimat: error: 1 of what was looked at failed: not-there\n"


def test_a_folder_that_cannot_be_written_to_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    [folder] = [x for x in doctor._machine() if x.name == "current folder"]
    assert folder.ok is False
    assert folder.found.startswith("FileNotFoundError")


def test_agents_whose_certificates_are_of_different_authorities_do_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor._identities

    def strangers(folder: Path) -> list[Identity]:
        return [real(tmp_path / "a")[0], real(tmp_path / "b")[1]]

    monkeypatch.setattr(doctor, "_identities", strangers)
    monkeypatch.setattr(doctor, "_WAIT_S", 0.5)
    with pytest.raises(RuntimeError, match="found no agent"):
        doctor._exchange()


@pytest.mark.parametrize("lacks", [True, False])
def test_a_cpu_without_bfloat16_is_told(
    lacks: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "lacks_bfloat16", lambda: lacks)
    found, _ = looked(capsys, 0)
    assert ("slower than float32" in found["bfloat16"]["found"]) == lacks
