"""Shortcuts, norms and odd widths of the built-in networks, and the ways a factory fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from dimat.errors import ModelError
from dimat.models import MODELS, build_for_input, build_model, check_output
from dimat.models.resnet import PadShortcut, make_norm


def build(name: str, size: int = 8, classes: int = 10, **settings: Any) -> nn.Module:
    return build_model(
        name, in_channels=3, num_classes=classes, image_size=(size, size), **settings
    )


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_each_class_costs_a_row_of_the_head_and_nothing_else() -> None:
    assert count(build("vgg16", 32)) == 14_728_266
    assert count(build("vgg16", 32, 100)) - count(build("vgg16", 32)) == 90 * (512 + 1)
    assert count(build("resnet20", classes=11)) - count(build("resnet20")) == 64 + 1


def test_the_usual_resnet20_has_the_usual_number_of_parameters() -> None:
    """269,722 of He et al. with padded shortcuts, on 10 classes."""
    assert count(build("resnet20", shortcut="pad")) == 269_722


@pytest.mark.parametrize("shortcut", ["conv3", "conv1", "pad"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("width", [0.2, 0.45, 1.3])
def test_every_kind_of_resnet_works_at_odd_widths(shortcut: str, norm: str, width: float) -> None:
    model = build("resnet20", width=width, shortcut=shortcut, norm=norm)
    kinds = {type(m) for m in model.modules()} & {nn.BatchNorm2d, nn.GroupNorm}
    assert kinds == {nn.BatchNorm2d if norm == "batch" else nn.GroupNorm}
    logits = model(torch.rand(4, 3, 8, 8))
    assert logits.shape == (4, 10)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 8), (3, 6), (5, 10), (2, 7)])
def test_a_padded_shortcut_is_every_other_pixel_between_zero_channels(
    inputs: int, outputs: int
) -> None:
    x = torch.rand(2, inputs, 6, 6)
    y = PadShortcut(inputs, outputs, 2)(x)
    before = (outputs - inputs) // 2
    expected = torch.zeros(2, outputs, 3, 3)
    expected[:, before : before + inputs] = x[:, :, ::2, ::2]
    torch.testing.assert_close(y, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (12, 4), (10, 2), (7, 1), (8, 8)])
def test_group_norm_has_up_to_eight_groups_of_equal_size(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_a_block_is_two_convolutions_and_a_sum() -> None:
    block = build("resnet20", width=0.5).blocks[3].eval()  # the first that halves the image
    x = torch.rand(2, 8, 8, 8)
    hidden = functional.relu(block.norm1(block.conv1(x)))
    expected = functional.relu(block.norm2(block.conv2(hidden)) + block.shortcut(x))
    assert expected.shape == (2, 16, 4, 4)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("name", sorted({*MODELS} - {"unet"}))
def test_each_model_takes_its_smallest_image_and_one_that_is_not_square(name: str) -> None:
    smallest = 32 if name.startswith("vgg") else 1 if name == "mlp" else 4
    for size in ((smallest, smallest), (smallest, smallest + 5)):
        settings: dict[str, Any] = {"in_channels": 1, "num_classes": 3, "image_size": size}
        check_output(name, build_model(name, width=0.1, **settings), **settings)
    if smallest > 1:
        with pytest.raises(ModelError, match=f"too deep for images of {smallest - 1}x64 pixels"):
            build_model(name, in_channels=1, num_classes=3, image_size=(smallest - 1, 64))


FACTORIES = """
import torch
from torch import nn

def net(in_channels, num_classes, image_size):
    height, width = image_size
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * height * width, num_classes))

def flat(in_channels, num_classes, image_size):
    return nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(3), nn.BatchNorm2d(3))

def two_inputs(in_channels, num_classes, image_size):
    return nn.Bilinear(3, 3, 10)

def pair(in_channels, num_classes, image_size):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()
"""
SHAPE: dict[str, Any] = {"in_channels": 3, "num_classes": 10, "image_size": (8, 8)}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "users_own_nets.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    return "users_own_nets"


def test_a_users_own_factory_gets_size_and_classes_from_the_data(module: str) -> None:
    model = build_model(f"{module}:net", **SHAPE)
    check_output("mine", model, **SHAPE)
    assert count(model) == 10 * (3 * 64 + 1)
    assert count(build_for_input(f"{module}:net", (2, 1, 5, 4), 7)) == 7 * (20 + 1)


def test_what_a_factory_returns_has_to_be_a_module() -> None:
    with pytest.raises(ModelError, match="'builtins:dict' returned dict, not an nn.Module"):
        build_for_input("builtins:dict", (2, 3), 10)


@pytest.mark.parametrize("name", [":net", ".relative:net", "users_own_nets:", "users_own_nets:x.y"])
def test_a_name_that_cannot_be_imported_is_refused(module: str, name: str) -> None:
    with pytest.raises(ModelError, match=r"cannot be imported: .*write package.module:factory"):
        build_model(name, **SHAPE)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("flat", r"fails on images \(2, 3, 8, 8\): expected 4D input"),
        ("two_inputs", r"fails on images \(2, 3, 8, 8\): Bilinear.forward\(\) missing 1 required"),
        ("pair", r"gives a tuple: it must give a tensor, \(2, 10\) for 2 images; a module"),
    ],
)
def test_a_module_that_does_not_take_images_is_refused(
    module: str, factory: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_output("mine", build_model(f"{module}:{factory}", **SHAPE), **SHAPE)


def test_checking_a_model_leaves_its_statistics_and_mode() -> None:
    model = build("cnn", width=0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval()
    check_output("cnn", model, **SHAPE)
    assert not model.training
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
