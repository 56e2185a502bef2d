"""A model of one's own: where it is looked for, and what it is called with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dimat.cli import main
from dimat.errors import ModelError
from dimat.models import build_for_input, build_model
from dimat.state import save_state, state_of

SHAPE: dict[str, Any] = {"in_channels": 3, "num_classes": 10, "image_size": (8, 8)}
FACTORIES = """
from torch import nn

def told(**given):
    model = nn.Identity()
    model.given = given
    return model

def nothing():
    return told()

def classes(num_classes, depth=2):
    return told(num_classes=num_classes)

def channels(in_channels):
    return told(in_channels=in_channels)

def size(num_classes, *, image_size):
    return told(num_classes=num_classes, image_size=image_size)

def all_three(in_channels, num_classes, image_size):
    return told(in_channels=in_channels, num_classes=num_classes, image_size=image_size)

class Net(nn.Identity):
    def __init__(self, num_classes):
        super().__init__()
        self.given = {"num_classes": num_classes}

def needs(num_classes, depth):
    return told()

def fails(num_classes):
    return {}["depth"]

def linear(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))
"""


@pytest.fixture(autouse=True)
def _in_a_folder_that_is_not_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a console script has it: no entry of ``sys.path`` is the current folder."""
    monkeypatch.setattr(sys, "path", [x for x in sys.path if x not in ("", ".")])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_mine", raising=False)
    Path("nets_of_mine.py").write_text(FACTORIES)


@pytest.mark.parametrize(
    ("factory", "asked"),
    [
        ("nothing", []),
        ("classes", ["num_classes"]),
        ("channels", ["in_channels"]),
        ("size", ["image_size", "num_classes"]),
        ("all_three", [*SHAPE]),
        ("told", [*SHAPE]),
        ("Net", ["num_classes"]),
    ],
)
def test_a_factory_is_given_what_its_signature_asks_for(factory: str, asked: list[str]) -> None:
    """By ``dimat run`` as by ``dimat merge``; with ``**kwargs`` it is given all."""
    for model in (
        build_model(f"nets_of_mine:{factory}", **SHAPE),
        build_for_input(f"nets_of_mine:{factory}", (2, 3, 8, 8), 10),
    ):
        assert model.given == {name: SHAPE[name] for name in asked}


def test_where_inputs_are_no_images_a_factory_is_told_the_classes_alone() -> None:
    assert build_for_input("nets_of_mine:told", (2, 7), 10).given == {"num_classes": 10}
    assert isinstance(build_for_input("torch.nn:ReLU", (2, 7), 10), nn.ReLU)
    with pytest.raises(ModelError, match="cannot be called: missing a required argument: 'in_cha"):
        build_for_input("nets_of_mine:all_three", (2, 7), 10)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nets_of_mine:needs", "missing a required argument: 'depth'; a factory may ask for in_ch"),
        ("nets_of_mine:fails", "fails when it is built: KeyError: 'depth'"),
        ("nets_of_mine:nobody", "cannot be imported: .*no attribute 'nobody'"),
        ("nets_of_yours:net", "cannot be imported: No module named .*or in the current folder"),
        ("broken:net", "cannot be imported: invalid syntax"),
    ],
)
def test_a_factory_that_cannot_be_used_is_refused_and_the_path_stays(
    factory: str, message: str
) -> None:
    Path("broken.py").write_text("def net(:\n")
    before = list(sys.path)
    with pytest.raises(ModelError, match=message):
        build_model(factory, **SHAPE)
    assert sys.path == before


def test_a_file_of_the_current_folder_never_stands_in_for_an_installed_module() -> None:
    sys.modules.pop("colorsys", None)
    Path("colorsys.py").write_text(FACTORIES)
    with pytest.raises(ModelError, match="'colorsys' has no attribute 'nothing'"):
        build_model("colorsys:nothing", **SHAPE)


@pytest.mark.parametrize(
    "command",
    [
        "symmetry --input 2,1,8,8",
        "topology ring --agents 3 --image 1,8,8",
        "run --agents 2 --rounds 1 --pretrain_epochs 0 --local_steps 1 --controls [] --threads 1 "
        "--out run",
        "align a.safetensors a.safetensors --data digits --images 50 --out b.safetensors",
        "merge a.safetensors a.safetensors --data digits --images 50 --out m.safetensors",
    ],
)
def test_every_command_finds_a_model_in_the_current_folder(command: str) -> None:
    save_state(state_of(build_model("nets_of_mine:linear", **SHAPE)), Path("a.safetensors"))
    del sys.modules["nets_of_mine"]
    assert main([*command.split(), "--model", "nets_of_mine:linear"]) == 0
