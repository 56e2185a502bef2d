"""``dimat finish``: one network of all agents of a run, with a closed-form head."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import dimat
from dimat.cli import main
from dimat.experiment.config.parse import config_from, config_to_yaml, load_config
from dimat.experiment.setup import make_setup
from dimat.merging import mix, recalibrate
from dimat.state import load_state, state_of
from dimat.tools.finish import finish
from dimat.tools.finish.run import pooled_moments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of three agents that have a third of the classes each."""
    path = tmp_path_factory.mktemp("runs") / "run"
    dimat.run(
        {"data.split": "by-class", "width": 0.25, "checkpoint.every": 0},
        progress=False, agents=3, rounds=1, pretrain_epochs=3, controls=("wa",), out=str(path),
    )  # fmt: skip
    return path


def test_the_head_knows_all_classes_and_stands_beside_controls_and_untrained_features(
    folder: Path,
) -> None:
    found = {own.name: own for own in finish(folder)}
    assert list(found) == ["dimat", "wa", "untrained"]
    for own in found.values():
        assert own.head > max(0.7, own.mean + 0.2)  # of classes that no agent has all of
    assert found["untrained"].agents is None
    states = [load_state(path) for path in sorted((folder / "states").iterdir())]
    mean = mix(states, [1 / 3] * 3)
    for key in ("hidden1.weight", "hidden2.bias"):
        torch.testing.assert_close(found["dimat"].state[key], mean[key])


def test_what_is_written_is_the_network_that_was_measured(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "one.safetensors"
    assert main(["finish", str(folder), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    setup = make_setup(load_config(folder / "config.yaml"))
    model = setup.new_model(0)
    model.load_state_dict(load_state(out))
    images, labels = setup.test
    correct = float((model.eval()(images).argmax(1) == labels).double().mean())
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["dimat"])
    assert line.split()[3] == f"{100 * correct:.1f}"
    assert [x.name for x in tmp_path.iterdir()] == [out.name]
    assert main(["finish", str(folder), "--out", str(out)]) == 2
    assert "one.safetensors exists" in capsys.readouterr().err
    assert main(["finish", str(folder), "--out", str(out), "--overwrite"]) == 0


def test_a_run_without_all_states_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "states").mkdir()
    assert main(["finish", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
    for name in ("config.yaml", "environment.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    assert main(["finish", str(tmp_path)]) == 2
    assert "has states of 0 agents, of 3" in capsys.readouterr().err
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()  # written last, when all states are
    assert main(["finish", str(tmp_path / "run")]) == 2
    assert "of a run that is done" in capsys.readouterr().err
    for agent in (1, 2):
        (tmp_path / "run" / "states" / f"agent-{agent:03d}.safetensors").unlink()
    (tmp_path / "run" / "summary.json").write_text("{}")
    assert main(["finish", str(tmp_path / "run")]) == 2  # one state of three is no pooled network
    assert "has states of 1 agent, of 3" in capsys.readouterr().err


def with_settings(folder: Path, copy: Path, changes: Mapping[str, object]) -> Path:
    """A copy of a run folder with other settings."""
    shutil.copytree(folder, copy)
    config = config_from(load_config(folder / "config.yaml"), changes)
    (copy / "config.yaml").write_text(config_to_yaml(config))
    return copy


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is here")
def test_a_run_of_a_device_that_is_not_here_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = with_settings(folder, tmp_path / "away", {})
    text = (away / "config.yaml").read_text()
    (away / "config.yaml").write_text(text.replace("device: cpu", "device: cuda"))
    assert main(["finish", str(away)]) == 2
    assert "setting 'device' is 'cuda'" in capsys.readouterr().err


def test_the_mean_is_recalibrated_whatever_was_in_the_rounds(tmp_path: Path) -> None:
    """Of a network with BatchNorm, beside one that learned of all images: a single state."""
    rounds = tmp_path / "run"
    dimat.run(
        {"model": "cnn", "width": 0.25, "checkpoint.every": 0, "data.train_images": 300},
        progress=False, agents=3, rounds=1, pretrain_epochs=1, controls=("centralized",),
        out=str(rounds),
    )  # fmt: skip
    seldom = with_settings(rounds, tmp_path / "seldom", {"recalibration.methods": ("local",)})
    often, again = finish(rounds), finish(seldom)
    assert [own.name for own in often] == ["dimat", "centralized", "untrained"]
    for one, other in zip(often, again, strict=True):
        torch.testing.assert_close(one.state, other.state, rtol=0, atol=0)


def test_moments_of_all_images_are_those_within_and_between_agents() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).double()
    shards = [k + (k + 1) * torch.randn(n, 2, 5, 5).double() for k, n in enumerate((30, 10))]
    parts = []
    for shard in shards:
        recalibrate(model, [shard])
        parts.append(state_of(model))
    found = pooled_moments(model, parts, [0.75, 0.25])
    recalibrate(model, [torch.cat(shards)])
    torch.testing.assert_close(found["1.running_mean"], state_of(model)["1.running_mean"])
    torch.testing.assert_close(
        found["1.running_var"], state_of(model)["1.running_var"], rtol=0.01, atol=0
    )  # each by n - 1
