"""A run on several processes stops when the first one's time is up, all of them at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.distributed.test_torchrun import CONFIG, launched, saved
from tests.experiment.test_resume import content

import dimat


@pytest.mark.parametrize(
    ("method", "controls", "place"),
    [
        ("wa", ("centralized",), "pre-training, epoch 1 of 1"),
        pytest.param(  # of which only the first process has an agent
            "centralized", ("wa",), "pre-training, epoch 1 of 1", marks=pytest.mark.slow
        ),
    ],
)
def test_all_processes_stop_together_and_go_on_to_the_same_bits(
    tmp_path: Path, method: str, controls: tuple[str, ...], place: str
) -> None:
    config = replace(CONFIG, agents=3, method=method, controls=controls)
    whole = content(dimat.run(replace(config, out=str(tmp_path / "whole"))).folder)
    with launched(2, [*saved(config, tmp_path), "--max_wall_s=1e-9"]) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err  # so says torchrun of any process's code but 0
    assert err.count("dimat: stopped after") == 1
    assert f"done: {place};" in err
    assert err.count("exitcode  : 3") >= 1
    assert "Traceback" not in err.partition("dimat: stopped")[0]
    assert "run folder: " not in out
    with launched(2, ["resume", str(tmp_path / "run")]) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert content(tmp_path / "run") == whole
