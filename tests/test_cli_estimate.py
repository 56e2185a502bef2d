"""``dimat estimate``: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dimat.cli import main
from dimat.cli.commands.estimate import parser
from dimat.tools.estimate import forecast

ROOT = Path(__file__).parent.parent
QUICK = ["estimate", "--no-calibrate", "--threads=1"]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*QUICK, *words]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*QUICK, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_file_for_compare_is_estimated_by_its_first_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, str(ROOT / "configs" / "small" / "topologies.yaml"), "--agents", "6")
    assert "6 agents, ring, 20 rounds" in " ".join(text.split())
    assert "9 runs like this one make the comparison." in text
    assert all(word in text for word in ("pre-training", "dimat", "wa", "all 6 agents"))


def test_json_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "--json", "--controls=wa", "--width=0.5"))
    assert set(found["costs"]) == {"pre-training", "dimat", "wa"}
    wa = found["costs"]["wa"]
    assert wa["sent_bytes"]["total"] == 5 * 2 * 20 * found["state_bytes"]
    assert found["flops"] == sum(sum(own["flops"].values()) for own in found["costs"].values())
    assert (found["wall_s"], wa["wall_s"], found["runs"]) == (None, None, 1)


def test_the_time_of_a_run_is_that_of_its_parts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "_CALIBRATION_S", 0.2)
    assert main(["estimate", "--json", "--threads=1", "--width=0.2"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    parts = [sum(own["wall_s"].values()) for own in found["costs"].values()]
    assert found["wall_s"] == pytest.approx(found["start_s"] + sum(parts))
    assert captured.err == ""


def test_images_that_are_not_there_can_be_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.source=npz:cifar10.npz", "--model=mlp"]
    assert "--assume cifar100 does without the images" in refusal(capsys, *words)
    text = printed(capsys, *words, "--assume=500,100,32,32,3,10", "--data.augment", "true")
    assert "mlp, " in text


def test_a_gpu_that_is_not_there_can_be_estimated_for_without_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "No device was timed" in printed(capsys, "--device=cuda:99")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--assume=cifar"], "setting 'assume' is 'cifar': must be cifar10, cifar100"),
        (["--agens=3"], "unknown setting 'agens': did you mean 'agents'?"),
        (["--agents=0"], "setting 'agents' is 0: must be >= 1"),
        (["--grid.agents=3,4"], "setting 'grid' is for 'dimat compare'"),
        (["missing.yaml"], "config file 'missing.yaml'"),
        (["a.yaml", "--config=b.yaml"], "unexpected 'a.yaml': setting 'config' names a file"),
        (["--rounds"], "setting 'rounds' has no value"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, *words)


def test_its_options_are_explained() -> None:
    text = parser().format_help()
    assert all(f"--{own}" in text for own in ("config", "assume", "no-calibrate", "json"))
