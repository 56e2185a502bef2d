"""The paper's headline runs at its full width, and goes on after a stop: a few steps of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.experiment.test_resume import content

import dimat
from dimat import RunConfig
from dimat.errors import Stopped
from dimat.experiment.config.config import RecalibrationConfig
from dimat.experiment.config.parse import load_config

FILE = Path(__file__).parents[2] / "configs" / "paper" / "cifar100-resnet20x8-ring5-iid.yaml"


@pytest.fixture
def headline(tmp_path: Path) -> RunConfig:
    """The config with the shape of its images and its width; but few, and few steps."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(120) % 100
    path = tmp_path / "cifar100.npz"
    np.savez(path, train_x=images, train_y=labels, test_x=images[:10], test_y=labels[:10])
    config = load_config(FILE)
    return replace(
        config,
        rounds=2,
        pretrain_epochs=1,
        local_steps=1,
        batch_size=12,
        threads=1,
        data=replace(config.data, source=f"npz:{path}", train_images=100),
        matching=replace(config.matching, images=10),
        recalibration=RecalibrationConfig(images=10),
    )


@pytest.mark.slow
def test_it_runs_at_full_width_and_goes_on_to_the_same_bits(
    tmp_path: Path, headline: RunConfig
) -> None:
    assert (headline.model, headline.width, headline.shortcut) == ("resnet20", 8.0, "conv3")
    whole = dimat.run(replace(headline, out=str(tmp_path / "whole")))
    pieces = replace(headline, out=str(tmp_path / "pieces"), max_wall_s=1e-9)
    with pytest.raises(Stopped, match="pre-training, epoch 1 of 1"):
        dimat.run(pieces)
    with pytest.raises(Stopped, match="dimat, round 1 of 2"):
        dimat.resume(tmp_path / "pieces", max_wall_s=1e-9)
    dimat.resume(tmp_path / "pieces")
    assert whole.main.agents[0].merged is not None
    assert content(tmp_path / "pieces") == content(whole.folder)
