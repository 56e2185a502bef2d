"""``dimat finish``: one network of all agents of a run, with a closed-form head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import dimat
from dimat.cli import main
from dimat.experiment.config.parse import load_config
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
