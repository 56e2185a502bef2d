"""The built-in networks, and the way to bring one's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import nn

from dimat.errors import ModelError, check_known
from dimat.models.cnn import CNN
from dimat.models.factory import made_by
from dimat.models.mlp import MLP
from dimat.models.outside import OUTSIDE, Wanted
from dimat.models.resnet import BottleneckResNet, ResNet
from dimat.models.transformer import Transformer
from dimat.models.unet import UNet
from dimat.models.vgg import VGG
from dimat.state import memory_bytes, num_bytes, state_of


def build_model(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    image_size: tuple[int, int],
    width: float = 1.0,
    shortcut: str = "conv3",
    norm: str = "batch",
) -> nn.Module:
    """Build a model by name.

    Args:
        name: One of :data:`MODELS`, or ``package.module:factory``: then the factory is called with
            those of in_channels, num_classes and image_size that it asks for, by name.
        in_channels: Channels of an image.
        num_classes: Width of the output.
        image_size: Height and width of an image.
        width: Multiplier of the built-in models' channels, > 0.
        shortcut: Of ResNets: conv3, conv1 or pad.
        norm: Of ResNets: batch or group.

    Raises:
        ConfigError: If no such model is known.
        ModelError: If a factory cannot be imported or called, or the images are too small.
    """
    if ":" in name:
        offered = {
            "in_channels": in_channels,
            "num_classes": num_classes,
            "image_size": image_size,
        }
        return made_by(name, offered, _more((in_channels, *image_size), num_classes))
    check_known("model", name, MODELS)
    smallest = min_image_size(name)
    if min(image_size) < smallest:
        raise ModelError(
            f"model '{name}' is too deep for images of {image_size[0]}x{image_size[1]} pixels: it "
            f"needs {smallest}x{smallest} or more; use cnn or mlp"
        )
    _check_fits(name, in_channels, num_classes, image_size, width, shortcut, norm)
    return MODELS[name](in_channels, num_classes, image_size, width, shortcut, norm)


def build_for_input(
    name: str,
    shape: tuple[int, ...],
    num_classes: int,
    *,
    num_tokens: int = 0,
    padding: int | None = None,
    places: bool = False,
    width: float = 1.0,
    shortcut: str = "conv3",
    norm: str = "batch",
    build: Callable[..., object] | None = None,
) -> nn.Module:
    """A model for inputs of ``shape`` (batch first).

    Built-in models take images, ``mlp`` any numbers, ``transformer`` tokens; a factory may take
    anything, and is called without ``in_channels`` and ``image_size`` where inputs have not the
    four axes of images.

    Args:
        name: As :func:`build_model` takes it.
        shape: Shape of a batch, as the model gets it.
        num_classes: Width of the output.
        num_tokens: Number of tokens that inputs are ids of; 0: they are numbers.
        padding: The token that only fills a text up; None: there is none.
        places: Whether every place of an input, a token or a pixel, has an output.
        width: As :func:`build_model` takes it.
        shortcut: Likewise.
        norm: Likewise.
        build: The factory, where the caller has it; None: by the name.

    Raises:
        ConfigError: If no such model is known.
        ModelError: If it cannot be built for such inputs.
    """
    package, _, rest = name.partition(":")
    if build is None and package in OUTSIDE and rest:
        return OUTSIDE[package](rest, Wanted(shape[1:], num_classes, places, num_tokens, padding))
    if ":" in name and (build is not None or len(shape) != 4 or num_tokens):
        offered: dict[str, object] = {"num_classes": num_classes}
        if len(shape) == 4 and not num_tokens:
            offered |= {"in_channels": shape[1], "image_size": (shape[2], shape[3])}
        more = _more(shape[1:], num_classes, num_tokens, padding)
        return made_by(name, offered, more, build)
    if name == TRANSFORMER:
        if not num_tokens or len(shape) != 2:
            raise ModelError(
                f"model '{name}' takes texts, whole numbers (ids of tokens) of shape "
                f"(batch, length): give data.text, or another model for inputs of shape {shape[1:]}"
            )
        length = shape[1]
        return Transformer(num_tokens, num_classes, length, width, places=places, padding=padding)
    if name == "mlp" and not num_tokens:
        size = (1, math.prod(shape[2:])) if len(shape) != 4 else (shape[2], shape[3])
        _check_fits(name, shape[1], num_classes, size, width, shortcut, norm)
        if len(shape) == 2:
            return MLP(shape[1], num_classes, width, table=True)
        return MODELS[name](shape[1], num_classes, size, width, shortcut, norm)
    if ":" not in name:
        check_known("model", name, MODELS)
    if num_tokens:
        raise ModelError(
            f"model '{name}' takes no tokens (whole numbers): give transformer, or a "
            "package.module:factory of your own, or measurements as floats"
        )
    if len(shape) != 4:
        raise ModelError(
            f"model '{name}' takes images: give the shape batch,channels,height,width, not {shape}"
        )
    return build_model(
        name,
        in_channels=shape[1],
        num_classes=num_classes,
        image_size=(shape[2], shape[3]),
        width=width,
        shortcut=shortcut,
        norm=norm,
    )


def _more(
    sample: tuple[int, ...], num_outputs: int, num_tokens: int = 0, padding: int | None = None
) -> Mapping[str, object]:
    """What a factory may ask for by name, beside what it is offered."""
    known: dict[str, object] = {"num_outputs": num_outputs, "input_shape": sample}
    if num_tokens:
        known |= {"num_tokens": num_tokens, "padding": padding}
    elif len(sample) != 3:
        known["in_features"] = math.prod(sample)
    return known


Builder = Callable[[int, int, tuple[int, int], float, str, str], nn.Module]


def _mlp(channels: int, classes: int, size: tuple[int, int], width: float, *_: str) -> nn.Module:
    return MLP(channels * size[0] * size[1], classes, width)


def _cnn(channels: int, classes: int, size: tuple[int, int], width: float, *_: str) -> nn.Module:
    return CNN(channels, classes, width)


def _resnet(
    depth: int,
    channels: int,
    classes: int,
    size: tuple[int, int],
    width: float,
    shortcut: str,
    norm: str,
) -> nn.Module:
    return ResNet(channels, classes, depth, width, shortcut, norm)


def _vgg(
    depth: int, channels: int, classes: int, size: tuple[int, int], width: float, *_: str
) -> nn.Module:
    return VGG(channels, classes, depth, width)


def _unet(
    channels: int, classes: int, size: tuple[int, int], width: float, shortcut: str, norm: str
) -> nn.Module:
    return UNet(channels, classes, width, norm)


def _resnet50(
    channels: int, classes: int, size: tuple[int, int], width: float, shortcut: str, norm: str
) -> nn.Module:
    return BottleneckResNet(channels, classes, size, width, norm)


TRANSFORMER = "transformer"  # the built-in model of tokens; the others are of images, or numbers
MODELS: dict[str, Builder] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "unet": _unet,
    "resnet50": _resnet50,
    **{f"resnet{depth}": partial(_resnet, depth) for depth in (20, 32, 44, 56)},
    **{f"vgg{depth}": partial(_vgg, depth) for depth in (11, 13, 16)},
}


@cache
def _check_fits(
    name: str, channels: int, classes: int, size: tuple[int, int], width: float, *options: str
) -> None:
    """Refuse a built-in model that is larger than the memory of this machine."""
    with torch.device("meta"):  # shapes alone
        model = MODELS[name](channels, classes, size, width, *options)
    needed, there = num_bytes(state_of(model)), memory_bytes()
    if needed > there:
        raise ModelError(
            f"model '{name}' of width {width:g} for {classes:,} classes and images of {size[0]}x"
            f"{size[1]} pixels has {needed / 1e9:,.0f} GB, and this machine {there / 1e9:,.0f} GB "
            "of memory: use a smaller width, fewer classes or smaller images"
        )


def min_image_size(name: str) -> int:
    """The smallest image side that a built-in model can take: every pooling halves it."""
    if name.startswith("vgg"):
        return 32
    return 4 if name in ("cnn", "unet") or name.startswith("resnet") else 1


def check_output(
    name: str, model: nn.Module, *, in_channels: int, num_classes: int, image_size: tuple[int, int]
) -> None:
    """Refuse a model that does not map images to one logit a class.

    Raises:
        ModelError: With the shape that it gives and the one expected.
    """
    images = torch.zeros(2, in_channels, *image_size)
    check_outputs(name, model, images, (2, num_classes))


def check_outputs(
    name: str,
    model: nn.Module,
    inputs: torch.Tensor,
    expected: tuple[int, ...],
    rule: str = "its output width must be the number of classes",
) -> None:
    """Refuse a model whose outputs have another shape than a task expects.

    Args:
        name: Of the model, for the message.
        model: The model.
        inputs: A batch, as the model gets it.
        expected: The shape of its outputs.
        rule: What they must be, for the message.

    Raises:
        ModelError: With the shape that it gives and the one expected.
    """
    what = "images" if inputs.dim() == 4 else "inputs"
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # all that layers raise
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"model '{name}' fails on {what} {tuple(inputs.shape)}: {first}"
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(output, torch.Tensor):
        raise ModelError(
            f"model '{name}' gives a {type(output).__name__}: it must give a tensor, {expected} "
            f"for {len(inputs)} {what}; a module around it can pick one, as the logits of a dict"
        )
    if (shape := tuple(output.shape)) != expected:
        raise ModelError(
            f"model '{name}' gives {shape} for {len(inputs)} {what}, expected {expected}: {rule}"
        )


__all__ = [
    "MODELS",
    "TRANSFORMER",
    "build_for_input",
    "build_model",
    "check_output",
    "check_outputs",
    "min_image_size",
]
