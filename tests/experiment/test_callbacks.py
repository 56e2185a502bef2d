"""Callbacks hear what is written, in its order; TensorBoard's files hold the same numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from tests.experiment.test_run import SMALL, lines

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError

CONFIG = replace(SMALL, rounds=1, pretrain_epochs=1, controls=("local",))
Heard = list[tuple[str, str, object]]


class Listener:
    """Remembers all that it hears."""

    def __init__(self) -> None:
        self.heard: Heard = []

    def started(self, method: str, config: RunConfig, folder: Path, after_round: int) -> None:
        self.heard.append(("started", method, (config.method, folder, after_round)))

    def measured(self, method: str, line: Mapping[str, object]) -> None:
        self.heard.append(("measured", method, dict(line)))

    def finished(self, method: str, summary: Mapping[str, object]) -> None:
        self.heard.append(("finished", method, dict(summary)))


def test_a_callback_hears_every_line_of_every_method_as_it_is_written(tmp_path: Path) -> None:
    listener = Listener()
    folder = dimat.run(replace(CONFIG, out=str(tmp_path / "run")), callbacks=[listener]).folder
    for method, where in (("dimat", folder), ("local", folder / "controls" / "local")):
        own = [(kind, what) for kind, who, what in listener.heard if who == method]
        assert own[0] == ("started", (method, where, -1))
        summary = json.loads((where / "summary.json").read_text())
        assert own[-1][0] == "finished"
        assert json.loads(json.dumps(own[-1][1])) == summary
        metrics = [what for kind, what in own if kind == "measured" and "phase" in what]  # type: ignore[operator]
        assert metrics == lines(where)
        file = where / "diagnostics.jsonl"
        written = [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []
        assert [w for k, w in own if k == "measured" and "phase" not in w] == written  # type: ignore[operator]
        assert bool(written) == (method == "dimat")


def test_what_a_callback_does_with_what_it_hears_is_its_own(tmp_path: Path) -> None:
    class Clearing(Listener):
        def measured(self, method: str, line: Mapping[str, object]) -> None:
            if isinstance(own := line.get("units_moved"), dict):
                own.clear()
            cast(dict[str, object], line).clear()

        finished = measured

    found = [
        dimat.run(replace(CONFIG, out=str(tmp_path / str(i))), callbacks=own)
        for i, own in enumerate(([], [Clearing()]))
    ]
    assert found[0].main.agents == found[1].main.agents
    assert {**found[0].main.summary}.keys() == {**found[1].main.summary}.keys()
    moved = [(own.folder / "diagnostics.jsonl").read_text() for own in found]
    assert moved[0] == moved[1]


def test_tensorboard_files_hold_what_metrics_and_diagnostics_hold(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(CONFIG, log=("tensorboard",), out=str(tmp_path / "run"))
    folder = dimat.run(config).folder

    def scalars(who: str) -> dict[str, dict[int, float]]:
        found = EventAccumulator(str(folder / "tensorboard" / who)).Reload()
        tags = found.Tags()["scalars"]
        return {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in tags}

    for agent in range(4):
        own = scalars(f"agent-{agent:03d}")
        for line in lines(folder):
            if line["agent"] == agent:
                value = own[f"test_accuracy/{line['phase']}"][line["round"]]
                assert value == pytest.approx(line["test_accuracy"], rel=1e-6)
    (round_1,) = [json.loads(x) for x in (folder / "diagnostics.jsonl").read_text().splitlines()]
    seen = scalars("all")
    assert seen["consensus_after"][1] == pytest.approx(round_1["consensus_after"], rel=1e-6)
    for group, moved in round_1["units_moved"].items():
        assert seen[f"units_moved/{group}"][1] == pytest.approx(moved, rel=1e-6)


def test_without_tensorboard_the_way_out_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = replace(CONFIG, log=("tensorboard",), out=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r'pip install "dimat\[tensorboard\]"'):
        dimat.run(config)
    assert not (tmp_path / "run").exists()


def test_an_unknown_log_is_refused() -> None:
    with pytest.raises(ConfigError, match="'log' is 'tensorbord'.*did you mean 'tensorboard'"):
        dimat.run(replace(CONFIG, log=("tensorbord",)))
