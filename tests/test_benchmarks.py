"""``python -m benchmarks`` knows every benchmark, and how each is run in short."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import BENCHMARKS, Benchmark, machine, main, measure

FOLDER = Path(__file__).parents[1] / "benchmarks"
HELPERS = {
    "__main__",
    "aims",
    "claims",
    "descent",
    "live_bytes",
    "on_device",
    "parents",
    "results",
    "soak_intruders",
    "soak_report",
    "students",
    "vit",
}


def test_every_script_is_a_benchmark_or_a_helper() -> None:
    names = [own.name for own in BENCHMARKS]
    assert sorted(names) == sorted({path.stem for path in FOLDER.glob("*.py")} - HELPERS)


@pytest.mark.parametrize("own", BENCHMARKS, ids=lambda own: own.name)
def test_a_benchmark_finds_all_that_it_imports(own: Benchmark) -> None:
    importlib.import_module(f"benchmarks.{own.name}")


def test_a_script_that_has_a_short_form_is_run_in_short() -> None:
    for own in BENCHMARKS:
        text = (FOLDER / f"{own.name}.py").read_text()
        found = [option for option in ("--small", "--short") if f'"{option}"' in text]
        assert list(own.short or ()) == found, own.name
        assert f"python -m benchmarks.{own.name}" in text or f"benchmarks/{own.name}.py" in text


def test_the_machine_is_one_line_with_versions() -> None:
    assert "\n" not in machine()
    assert all(word in machine() for word in ("cores", "torch", "Python", "commit", "load"))


def test_one_that_fails_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {"training": 0, "round": 2, "scale": 3}
    ran: list[str] = []

    class Done:
        def __init__(self, command: list[str], **rest: object) -> None:
            ran.append(command[2].removeprefix("benchmarks."))
            self.returncode = ends[ran[-1]]

    monkeypatch.setattr("benchmarks.__main__.subprocess.run", Done)
    monkeypatch.setattr("benchmarks.__main__.machine", lambda: "here")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "scale", "round", "training"])
    assert main() == 1
    assert ran == ["training", "round", "scale"]
    out = capsys.readouterr().out
    assert "FAILED with exit code 2" in out
    assert out.count("more to do") == 1
    assert out.splitlines()[-1].endswith("failed: round")


def test_one_whose_data_are_not_there_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure(Benchmark("merging", "tables", needs="nowhere/at-all"), long=True)
    assert "left out: nowhere/at-all is not there" in capsys.readouterr().out


def test_an_unknown_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "trianing"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "unknown benchmark trianing" in capsys.readouterr().err
