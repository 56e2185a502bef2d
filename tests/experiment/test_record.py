"""The run folder: complete, readable at any moment, and careful with what is there already."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import dimat
from dimat.errors import ConfigError, RecordError
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.parse import load_config
from dimat.experiment.record.environment import environment
from dimat.experiment.record.run_folder import RunFolder, check_out, refuse_of_agent
from dimat.state import load_state


def create(path: Path, *, overwrite: bool = False) -> RunFolder:
    return RunFolder.create(path, RunConfig(overwrite=overwrite), "dimat")


def test_the_config_can_be_run_again_and_replaces_nothing(tmp_path: Path) -> None:
    config = RunConfig(agents=3, out=str(tmp_path / "a"), overwrite=True)
    folder = RunFolder.create(tmp_path / "a", config, "wa")
    assert load_config(folder.path / "config.yaml") == RunConfig(agents=3, method="wa")


def test_a_metrics_line_is_on_disk_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    for number in range(3):
        folder.append({"round": number, "test_accuracy": 0.5})
        lines = (folder.path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["round"] for line in lines] == [*range(number + 1)]


def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    folder.append(
        {"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}, "e": np.float64("nan")}
    )
    line = (folder.path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"a": None, "b": [None, 1.0], "c": {"d": None}, "e": None}
    assert "NaN" not in line


def test_summary_and_states_can_be_read_back(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    folder.write_json("summary", {"method": "dimat", "test_accuracy_mean": 0.9})
    folder.write_state(7, {"weight": torch.arange(3.0)})
    assert json.loads((folder.path / "summary.json").read_text())["test_accuracy_mean"] == 0.9
    state = load_state(folder.path / "states" / "agent-007.safetensors")
    torch.testing.assert_close(state["weight"], torch.arange(3.0))
    assert not list(folder.path.rglob("*.partial"))


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_states_can_be_read_by_whom_the_files_beside_them_can(
    tmp_path: Path, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        folder = create(tmp_path / "run")
        folder.write_json("summary", {})
        folder.write_state(0, {"weight": torch.zeros(2)})
    finally:
        os.umask(before)
    for name in ("summary.json", "states/agent-000.safetensors"):
        assert (folder.path / name).stat().st_mode & 0o777 == mode


def test_a_run_that_is_begun_and_not_done_can_be_gone_on_with(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"exists: .*; 'dimat resume .*run' goes on with the run"):
        check_out(folder.path, overwrite=False)
    folder.write_json("summary", {})  # and its controls are not
    with pytest.raises(ConfigError, match=r"'dimat resume .*run' goes on with the run"):
        check_out(folder.path, overwrite=False)
    for control in RunConfig().controls:
        folder.control(control).write_json("summary", {})
    with pytest.raises(ConfigError, match=r"\(in Python overwrite=True\)$"):
        check_out(folder.path, overwrite=False)


def test_a_place_that_may_not_be_looked_at_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(ConfigError, match="'out': .*run cannot be written: Permission denied"):
        check_out(tmp_path / "run", overwrite=False)


@pytest.mark.parametrize("text", ["null", "3", "[", "[]"])
def test_an_environment_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    folder = create(tmp_path / "run")
    (folder.path / "environment.json").write_text(text)
    with pytest.raises(RecordError, match="environment.json"):
        refuse_of_agent(folder.path)


def test_a_run_that_is_replaced_leaves_none_of_its_records(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    first = {own.name for own in folder.path.iterdir()}
    for name in ("topology", "shards", "task", "chosen", "confusion", "summary"):
        folder.write_json(name, {})
    for name in ("metrics", "diagnostics", "classes", "incidents"):
        folder.append({}, name)
    again = create(tmp_path / "run", overwrite=True)
    assert {own.name for own in again.path.iterdir()} == first


def test_a_control_has_a_folder_of_its_own_that_can_be_run_alone(tmp_path: Path) -> None:
    control = create(tmp_path / "run").control("wa")
    assert control.path == tmp_path / "run" / "controls" / "wa"
    config = load_config(control.path / "config.yaml")
    assert (config.method, config.controls, config.out) == ("wa", (), None)


def test_the_environment_says_what_it_ran_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = create(tmp_path / "run")
    found = json.loads((folder.path / "environment.json").read_text())
    assert found == environment()
    assert (found["torch"], found["dimat"]) == (torch.__version__, dimat.__version__)
    assert found["threads"] == torch.get_num_threads()
    assert {"python", "numpy", "scipy", "dimat", "platform", "cpu", "cores", "gpu"} <= found.keys()
    assert found["git_commit"] is None  # tmp_path is no checkout


def test_an_existing_folder_is_refused_with_a_way_out(tmp_path: Path) -> None:
    create(tmp_path / "run")
    said = r"'out': .*run exists: use another, or --overwrite true \(in Python overwrite=True\)"
    with pytest.raises(ConfigError, match=said):
        create(tmp_path / "run")


def test_overwriting_removes_what_the_earlier_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    folder.append({"round": 0})
    folder.write_state(0, {"weight": torch.zeros(1)})
    folder.control("wa")
    (folder.path / "notes.txt").write_text("mine")
    create(tmp_path / "run", overwrite=True)
    assert {path.name for path in folder.path.iterdir()} == {
        "config.yaml",
        "environment.json",
        "states",
        "notes.txt",
    }
    assert not list((folder.path / "states").iterdir())


@pytest.mark.parametrize("name", ["thesis.tex", "config.yaml"])
def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigError, match="is not a run folder"):
        create(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "precious"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    create(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"'out': .* cannot be written"):
        create(tmp_path / "file" / "run")


def test_without_a_path_every_run_gets_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [RunFolder.create(None, RunConfig(), "dimat") for _ in range(3)]
    assert len({folder.path for folder in folders}) == 3
    assert all(folder.path.parent == Path("runs") for folder in folders)
    assert folders[0].config == RunConfig()
