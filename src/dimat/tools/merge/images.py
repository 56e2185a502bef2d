"""Images as input of networks: normalized as in their training, in batches, on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dimat.data import generator, sample_batches
from dimat.experiment.config.rules import broken_rule

_CHOICE = 4  # purpose of the random stream that chooses images


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


@dataclass(frozen=True)
class Images:
    """Images in memory, given out in normalized batches.

    Args:
        pixels: (n, height, width, channels) uint8, or float in [0, 1].
        normalize: Normalization of the batches.
        batch_size: Images of a batch, >= 1.
        device: Device of the batches.
    """

    pixels: Tensor
    normalize: Normalization
    batch_size: int
    device: str

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self) -> Iterator[Tensor]:
        """Normalized batches of all images, in order."""
        for part in torch.split(self.pixels, self.batch_size):
            yield self.normalize(part.to(self.device))

    def sample(self, count: int, seed: int) -> list[Tensor]:
        """Normalized batches of randomly chosen images, about equally large.

        Args:
            count: Images to choose, at most.
            seed: Seed of the choice, >= 0.
        """
        parts = sample_batches(len(self), count, self.batch_size, generator(seed, _CHOICE))
        return [self.normalize(self.pixels[part].to(self.device)) for part in parts]
