"""The built-in networks and the way to bring one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dimat.errors import ConfigError, ModelError
from dimat.models import MODELS, build_for_input, build_model, check_output


def build(name: str, size: int = 32, classes: int = 10, **settings: Any) -> nn.Module:
    return build_model(
        name, in_channels=3, num_classes=classes, image_size=(size, size), **settings
    )


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_papers_networks_have_the_published_number_of_parameters() -> None:
    wide = {"width": 8, "classes": 100}
    assert count(build("resnet20", shortcut="conv3", **wide)) == 18_646_756
    assert count(build("resnet20", shortcut="conv1", **wide)) == 17_336_036
    assert count(build("vgg16", classes=100)) == 14_774_436


@pytest.mark.parametrize("name", sorted({*MODELS} - {"unet"}))
@pytest.mark.parametrize("width", [1.0, 0.3])
def test_every_model_gives_one_logit_a_class(name: str, width: float) -> None:
    model = build(name, classes=7, width=width)
    check_output(name, model, in_channels=3, num_classes=7, image_size=(32, 32))
    assert model.training


def test_a_depth_means_that_many_weighted_layers() -> None:
    for depth in (20, 32, 44, 56):
        model = build(f"resnet{depth}", shortcut="pad")
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth


@pytest.mark.parametrize(("name", "size"), [("vgg16", 8), ("resnet20", 2), ("cnn", 3)])
def test_a_model_too_deep_for_the_images_says_so(name: str, size: int) -> None:
    with pytest.raises(ModelError, match=f"'{name}' is too deep for images of {size}x{size}"):
        build(name, size)


def test_an_unknown_model_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="'model' is 'resnet21'.*did you mean 'resnet"):
        build("resnet21")


def too_wide(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes + 1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.package:build", "cannot be imported: No module named"),
        ("torch.nn:Nope", "cannot be imported.*Nope"),
        ("torch:pi", "is float, not something to call"),
        ("torch.nn:Linear", "cannot be called: missing a required argument: .in_features"),
        ("builtins:dict", "returned dict, not an nn.Module"),
    ],
)
def test_a_factory_that_does_not_work_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(name)


def test_an_output_that_is_not_one_logit_a_class_is_refused() -> None:
    model = too_wide(3, 10, (8, 8))
    with pytest.raises(
        ModelError, match=r"'mine' gives \(2, 11\) for 2 images, expected \(2, 10\)"
    ):
        check_output("mine", model, in_channels=3, num_classes=10, image_size=(8, 8))
    with pytest.raises(ModelError, match=r"'mine' fails on images \(2, 3, 8, 8\)"):
        check_output("mine", nn.Linear(5, 10), in_channels=3, num_classes=10, image_size=(8, 8))


def test_a_factory_without_arguments_serves_any_input() -> None:
    assert isinstance(build_for_input("torch.nn:ReLU", (2, 3), 10), nn.ReLU)
    assert count(build_for_input("mlp", (2, 1, 4, 4), 10, width=0.5)) > 0


def test_equal_seeds_give_equal_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build("cnn").state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
