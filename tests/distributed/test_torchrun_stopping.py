"""A run on several processes stops when the first one's time is up, all of them at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.distributed.test_torchrun import CONFIG, saved, spread
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
    ended = spread(2, [*saved(config, tmp_path), "--max_wall_s=1e-9"])
    assert ended.codes == [3, 3], ended.err
    assert [err.count("dimat: stopped after") for err in ended.err] == [1, 0]
    assert f"done: {place};" in ended.err[0]
    assert not any("Traceback" in err for err in ended.err)
    assert not any("run folder: " in out for out in ended.out)
    ended = spread(2, ["resume", str(tmp_path / "run")])
    assert ended.codes == [0, 0], ended.err
    assert content(tmp_path / "run") == whole
