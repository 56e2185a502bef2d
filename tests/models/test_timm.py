"""Models of timm, by a stand-in of that name: timm itself needs torchvision, which is not here.

The stand-in has the functions that dimat calls, with their arguments and errors; the last test is
of timm itself, where it can be imported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.test_permuted import built, check_merge, pictures

from dimat.cli import main
from dimat.errors import ModelError
from dimat.models import build_for_input

STAND_IN = """
from torch import nn

MADE = []

def list_models():
    return ["resnet10t", "resnet18", "vit_tiny"]

def create_model(model_name, pretrained=False, **settings):
    name, _, tag = model_name.partition(".")
    if name not in list_models():
        raise RuntimeError("Unknown model (%s)" % model_name)
    if tag == "none":
        raise RuntimeError("Invalid pretrained tag (none) for %s." % name)
    model = (transformer if name == "vit_tiny" else convolution)(**settings)
    MADE.append((name, pretrained, settings))
    return model

def convolution(num_classes, in_chans):
    layers = [nn.Conv2d(in_chans, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))

def transformer(num_classes, in_chans, img_size):
    width = in_chans * img_size[0] * img_size[1]
    layers = [nn.Flatten(), nn.Linear(width, 8), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(8, num_classes))
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the stand-in is asked for."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    import timm

    assert timm.__file__ == str(tmp_path / "timm" / "__init__.py")
    monkeypatch.setitem(sys.modules, "timm", timm)  # and away again after the test
    own: list[Any] = timm.MADE
    return own


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny", "resnet18.a1_in1k"])
def test_a_permuted_copy_merges_to_the_model_itself(name: str, made: list[Any]) -> None:
    x = pictures(6, 9)()
    check_merge(built(f"timm:{name}", x, 3), x)
    assert made


def test_it_is_asked_for_channels_classes_and_the_size_where_it_takes_one(made: list[Any]) -> None:
    x = torch.zeros(2, 1, 6, 9)
    for name in ("resnet18", "vit_tiny"):
        assert built(f"timm:{name}", x, 5)(x).shape == (2, 5)
    settings = {"num_classes": 5, "in_chans": 1}
    assert made == [
        ("resnet18", False, settings),
        ("vit_tiny", False, {**settings, "img_size": (6, 9)}),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet81",
            r"Unknown model \(resnet81\) \(did you mean 'resnet18' or 'resnet10t'\? tim",
        ),
        ("zzz", r"Unknown model \(zzz\) \(timm.list_models\(\) names those that there are\)"),
        ("resnet18.none", r"Invalid pretrained tag \(none\) for resnet18. \(timm.list_models"),
    ],
)
def test_a_name_that_timm_has_not_is_refused_with_the_nearest(
    name: str, message: str, made: list[Any]
) -> None:
    with pytest.raises(ModelError, match=f"model 'timm:{name}' cannot be built: .*{message}"):
        build_for_input(f"timm:{name}", (1, 3, 8, 8), 3)
    assert not made


@pytest.mark.parametrize(
    ("shape", "settings"),
    [((1, 7), {"num_tokens": 5}), ((1, 4), {}), ((1, 3, 8, 8), {"places": True})],
)
def test_what_is_no_image_is_refused(shape: Any, settings: Any, made: list[Any]) -> None:
    with pytest.raises(ModelError, match="model 'timm:resnet18' takes images, and gives one"):
        build_for_input("timm:resnet18", shape, 3, **settings)
    assert not made


def test_a_timm_that_lacks_torchvision_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text("import torchvision")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModelError, match=r'needs pip install "dimat\[timm\]" \(.*torchvision'):
        build_for_input("timm:resnet18", (1, 3, 8, 8), 3)


def test_a_run_trains_and_merges_them(
    made: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--agents 2 --rounds 1 --pretrain_epochs 1 --threads 1 --controls none"
    own = ["--data.train_images", "200", "--out", str(tmp_path / "run")]
    assert main(["run", "--model", "timm:resnet18", *words.split(), *own]) == 0
    assert "mean" in capsys.readouterr().out
    assert {settings["num_classes"] for _, _, settings in made} == {10}


@pytest.mark.slow
def test_a_permuted_copy_of_a_model_of_timm_itself_does() -> None:
    pytest.importorskip("timm", exc_type=ImportError)
    x = pictures(16, 16)()
    check_merge(built("timm:resnet10t", x, 3), x)
