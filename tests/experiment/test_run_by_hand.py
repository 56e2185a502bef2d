"""A run of a model without a graph, under a symmetry given by hand; what fails is told in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dimat
from dimat import RunConfig, Symmetry
from dimat.errors import ConfigError, StructureError, TrainingError
from dimat.models import build_model
from dimat.training.trainer import LocalTrainer

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, num_classes, image_size):
        super().__init__()
        self.fc1 = nn.Linear(in_channels * image_size[0] * image_size[1], 8)
        self.fc2 = nn.Linear(8, num_classes)

    def forward(self, x):
        hidden = self.fc1(x.flatten(1)).relu()
        return self.fc2(hidden if hidden.sum() > 1 else 2 * hidden)
"""
AXES: dict[str, Any] = {
    "fc1.weight": ("h", None), "fc1.bias": ("h",), "fc2.weight": (None, "h")
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    (tmp_path / "by_hand.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    return RunConfig(
        agents=2,
        rounds=1,
        pretrain_epochs=1,
        threads=1,
        model="by_hand:Net",
        method="wm",
        controls=("wa",),
        out=str(tmp_path / "run"),
    )


def symmetry(axes: dict[str, Any] = AXES) -> Symmetry:
    shape: Any = {"in_channels": 1, "num_classes": 10, "image_size": (8, 8)}
    return Symmetry.from_axes(axes, build_model("by_hand:Net", **shape).state_dict())


def test_a_run_under_a_symmetry_by_hand_matches_by_weights_and_is_resumed(
    config: RunConfig,
) -> None:
    result = dimat.run(config, symmetry=symmetry())
    assert (result.main.method, *(own.method for own in result.controls)) == ("wm", "wa")
    again = dimat.resume(result.folder, symmetry=symmetry())
    assert again.main.summary == result.main.summary


def test_a_method_that_looks_into_the_model_and_a_wrong_symmetry_are_refused(
    config: RunConfig,
) -> None:
    with pytest.raises(ConfigError, match="'symmetry' is given by hand, .* method 'dimat' comp"):
        dimat.run(replace(config, method="dimat"), symmetry=symmetry())
    with pytest.raises(StructureError, match="outputs change in eval mode: not a symmetry of Net"):
        dimat.run(config, symmetry=symmetry({"fc1.bias": ("h",)}))
    assert not Path(str(config.out)).exists()


def test_what_fails_in_taking_over_a_merge_is_told_in_our_words(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("momentum")

    monkeypatch.setattr(LocalTrainer, "take_over", broken)
    own = replace(config, model="mlp", method="wa", controls=())
    with pytest.raises(
        TrainingError, match="wa, round 1, in the merge: taking it over failed: KeyError: 'mome"
    ):
        dimat.run(own)
