"""Samples as input of networks: images normalized as in their training; batches on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dimat.data import generator, sample_batches
from dimat.experiment.config.rules import broken_rule

_CHOICE = 4  # purpose of the random stream that chooses samples


@dataclass(frozen=True)
class Normalization:
    """The normalization ``(x - mean) / std`` of images in [0, 1].

    Args:
        mean: One number, or one a channel.
        std: One number, or one a channel, > 0.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    @staticmethod
    def parse(text: str | None, channels: int) -> Normalization:
        """The normalization of a text ``MEAN/STD``.

        Args:
            text: Two lists of numbers, one number or one a channel; None for dimat's own 0.5/0.25.
            channels: Channels of the images.

        Raises:
            ConfigError: If ``text`` is not of this form, or STD is not > 0.

        >>> Normalization.parse("0.5,0.4,0.3/0.25", 3)
        Normalization(mean=(0.5, 0.4, 0.3), std=(0.25,))
        """
        if text is None:
            return Normalization()
        try:
            mean, std = (tuple(float(x) for x in part.split(",")) for part in text.split("/"))
        except ValueError:
            mean, std = (), ()
        fits = all(len(part) in (1, channels) for part in (mean, std))
        if not fits or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            rule = f"MEAN/STD, each one number or {channels} separated by commas, STD > 0"
            raise broken_rule("normalize", text, rule)
        return Normalization(mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalized (n, channels, height, width) float32 images.

        Args:
            images: (n, height, width, channels) uint8, or float in [0, 1].
        """
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        mean, std = (torch.tensor(x, device=images.device) for x in (self.mean, self.std))
        return ((images.float() / scale - mean) / std).permute(0, 3, 1, 2)


def as_they_are(inputs: Tensor) -> Tensor:
    """Inputs that are no images: networks get them as they are."""
    return inputs


@dataclass(frozen=True)
class Samples:
    """Inputs in memory, given out in batches as networks get them.

    Args:
        inputs: Images (n, height, width, channels), uint8 or float in [0, 1]; or other arrays,
            samples first.
        prepare: What networks get of a batch: the normalization of images, or it as it is.
        batch_size: Samples of a batch, >= 1.
        device: Device of the batches.
    """

    inputs: Tensor
    prepare: Callable[[Tensor], Tensor]
    batch_size: int
    device: str

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def images(self) -> bool:
        """Whether the inputs are images."""
        return isinstance(self.prepare, Normalization)

    @property
    def num_batches(self) -> int:
        """Number of the batches of all samples."""
        return -(-len(self) // self.batch_size)

    def batches(self) -> Iterator[Tensor]:
        """Batches of all samples, in order."""
        for part in torch.split(self.inputs, self.batch_size):
            yield self.prepare(part.to(self.device))

    def sample(self, count: int, seed: int) -> list[Tensor]:
        """Batches of randomly chosen samples, about equally large.

        Args:
            count: Samples to choose, at most.
            seed: Seed of the choice, >= 0.
        """
        parts = sample_batches(len(self), count, self.batch_size, generator(seed, _CHOICE))
        return [self.prepare(self.inputs[part].to(self.device)) for part in parts]
