"""A run that is killed as it begins begins again, and a living one keeps its folder."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.exchange.threads import peers_file
from tests.experiment.file_faults import Killed, disk

import dimat
from dimat.errors import ConfigError, RecordError
from dimat.experiment.config.config import DataConfig, RunConfig
from dimat.experiment.config.parse import config_to_yaml
from dimat.experiment.record import run_folder as record
from dimat.experiment.record.locks import alone
from dimat.experiment.record.run_folder import RunFolder, is_false_start, is_run_folder
from dimat.experiment.run import run_or_resume
from dimat.experiment.single_agent import run as apart
from dimat.experiment.single_agent.run import AgentSite

TINY = RunConfig(
    agents=2,
    rounds=1,
    pretrain_epochs=0,
    local_steps=1,
    method="wa",
    controls=(),
    width=0.25,
    threads=1,
    data=DataConfig(train_images=200, split="iid"),
)
TEXT = config_to_yaml(TINY)


def here(out: Path) -> AgentSite:
    """Agents of one machine, whose addresses are in a file beside a run folder."""
    folder = out.with_name(f"{out.name}-site")
    folder.mkdir()
    return AgentSite(peers_file(folder, TINY.agents), insecure=True)


BEGUN = {"config.yaml", "environment.json", "states", "checkpoints"}


@pytest.fixture
def _anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run runs is of no interest, and takes a while to find out."""
    monkeypatch.setattr(record, "environment", dict)


def begin(path: Path, config: RunConfig = TINY) -> None:
    """As the same command does, given again and again."""
    fresh = config.overwrite or not is_run_folder(path)
    with RunFolder.held(
        path, config, fresh=fresh, by="runs", resumed="'resume {}'".format
    ) as folder:
        assert names(folder.path) >= BEGUN


def names(path: Path) -> set[str]:
    return {inside.name for inside in path.iterdir()}


def everything(path: Path) -> dict[str, bytes | None]:
    return {
        str(inside.relative_to(path)): inside.read_bytes() if inside.is_file() else None
        for inside in path.rglob("*")
    }


def earlier(path: Path) -> Path:
    """A run folder with something of all that a run writes, and a file that is not of a run."""
    config = replace(TINY, seed=7, controls=("local",))
    folder = RunFolder.create(path, config, "wa")
    for own in (folder, folder.control("local")):
        own.append({"round": 0, "agent": 0, "phase": "trained"})
        own.write_state(0, {"w": torch.ones(1)})
        own.write_json("summary", {"method": "wa"})
    (path / "checkpoints" / "round-000001").mkdir(parents=True)
    (path / "checkpoints" / "round-000001" / "meta.json").write_text("{}")
    (path / "notes.txt").write_text("mine")
    return path


def changes_of(path: Path, config: RunConfig) -> int:
    with disk(path) as found:
        begin(path, config)
    return found.changes


@pytest.mark.usefixtures("_anywhere")
def test_killed_at_any_change_as_it_begins_a_run_begins_again(tmp_path: Path) -> None:
    moments = changes_of(tmp_path / "whole", TINY)
    assert moments > 8
    for k in range(moments):
        out = tmp_path / f"{k}"
        with disk(out, k), suppress(Killed):
            begin(out)
        assert not out.exists() or is_run_folder(out) or not names(out) or is_false_start(out)
        begin(out)
        assert names(out) == BEGUN
        assert (out / "config.yaml").read_text() == TEXT


@pytest.mark.usefixtures("_anywhere")
def test_killed_at_any_change_as_it_replaces_another_a_run_begins_again(tmp_path: Path) -> None:
    anew = replace(TINY, overwrite=True)
    moments = changes_of(earlier(tmp_path / "whole"), anew)
    assert moments > 16
    for k in range(moments):
        out = earlier(tmp_path / f"{k}")
        with disk(out, k), suppress(Killed):
            begin(out, anew)
        assert is_run_folder(out) or is_false_start(out)
        old = is_run_folder(out) and "seed: 7" in (out / "config.yaml").read_text()
        assert not old or names(out) >= {*BEGUN, "metrics.jsonl", "controls"}  # whole, or gone
        begin(out, anew)
        assert names(out) == BEGUN | {"notes.txt"}
        assert not any((out / "states").iterdir())
        assert (out / "config.yaml").read_text() == TEXT


def test_what_was_killed_as_it_began_is_told_how_it_begins_again(tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    (tmp_path / "config.yaml").write_text("agents: 2")
    with pytest.raises(ConfigError, match="killed there before it began, and the command that"):
        dimat.resume(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "file",
    [
        "notes.txt",
        "config.yaml",
        "states/best.safetensors",
        "checkpoints/step-100/weights.bin",
        "first/config.yaml",  # the names of a run's first files, elsewhere
        "states/config.yaml",
        "states",
    ],
)
@pytest.mark.parametrize("beside", ["states", "checkpoints"])
def test_what_is_not_of_a_false_start_is_not_removed(
    tmp_path: Path, file: str, beside: str, overwrite: bool
) -> None:
    out = tmp_path / "out"
    if file != beside:
        (out / beside).mkdir(parents=True)
    (out / file).parent.mkdir(parents=True, exist_ok=True)
    (out / file).write_text("precious")
    before = everything(out)
    with pytest.raises(ConfigError, match="exists: use another|is not a run folder"):
        dimat.run(replace(TINY, out=str(out), overwrite=overwrite))
    assert everything(out) == before


def left_by_version_1(out: Path) -> Path:
    """As earlier versions left a folder, which took their lock last."""
    (out / "states").mkdir(parents=True)
    (out / "config.yaml").write_text("agents: 2")
    (out / "environment.json.partial").write_text("{")
    return out


def test_a_run_begins_where_an_earlier_version_was_killed(tmp_path: Path) -> None:
    out = left_by_version_1(tmp_path / "run")
    assert dimat.run(replace(TINY, out=str(out))).folder == out
    out = left_by_version_1(tmp_path / "again")
    assert run_or_resume(replace(TINY, out=str(out))).folder == out


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_agent_begins_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    out = left_by_version_1(tmp_path / "agent-001")
    monkeypatch.setattr(apart.SingleAgentRun, "run", lambda self, *_, **more: self.folder.path)
    config = replace(TINY, out=str(tmp_path), overwrite=overwrite)
    assert apart.run_agent(config, 1, here(tmp_path)) == out  # type: ignore[comparison-overlap]
    assert (out / "config.yaml").read_text() == TEXT


def test_a_living_run_keeps_its_folder_and_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = replace(TINY, out=str(out), overwrite=True)
    with RunFolder.held(out, config, fresh=True, by="runs", resumed=str) as folder:
        folder.append({"round": 0})
        before = everything(out)
        who = rf"another process runs or resumes .*process {os.getpid()} on {platform.node()}"
        for again in (lambda: dimat.run(config), lambda: dimat.resume(out)):
            with pytest.raises(RecordError, match=who):
                again()
        assert everything(out) == before
    dimat.run(config)
    assert not (out / "checkpoints").exists()


def test_a_control_of_a_living_run_is_not_resumed_or_replaced(tmp_path: Path) -> None:
    config = replace(TINY, overwrite=True)
    with RunFolder.held(tmp_path / "run", config, fresh=True, by="runs", resumed=str) as folder:
        out = folder.control("local").path
        before = everything(tmp_path)
        for again in (
            lambda: dimat.run(replace(config, out=str(out))),
            lambda: dimat.resume(out),
        ):
            with pytest.raises(RecordError, match="another process runs or resumes the run"):
                again()
        assert everything(tmp_path) == before
    assert dimat.resume(out).folder == out


def test_a_living_agent_keeps_its_folder_and_is_named(tmp_path: Path) -> None:
    out = tmp_path / "agent-000"
    with alone(out / "checkpoints", otherwise="busy"):
        before = everything(out)
        with pytest.raises(RecordError, match=rf"another process runs the agent.*{os.getpid()}"):
            apart.run_agent(replace(TINY, out=str(tmp_path), overwrite=True), 0, here(tmp_path))
        assert everything(out) == before


def test_runs_without_a_folder_that_begin_at_once_get_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    moment = datetime(2026, 1, 2)
    monkeypatch.setattr(record, "datetime", SimpleNamespace(now=lambda: moment))
    hold = {"fresh": True, "by": "runs", "resumed": str}
    with (
        RunFolder.held(None, TINY, **hold) as first,  # type: ignore[arg-type]
        RunFolder.held(None, TINY, **hold) as second,  # type: ignore[arg-type]
    ):
        assert first.path != second.path
