"""A small U-Net: one output for every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dimat.models.resnet import make_norm


class UNet(nn.Module):
    """Three levels of 16, 32 and 64 channels times width, each of two 3x3 convolutions.

    The way down halves the image by pooling; the way up doubles it, beside what the level had on
    the way down. Images may have any height and width from 4 on.

    Args:
        in_channels: Channels of an image.
        num_classes: Width of the output.
        width: Multiplier of the channels, > 0.
        norm: batch or group.

    References:
        Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015.
    """

    def __init__(
        self, in_channels: int, num_classes: int, width: float = 1.0, norm: str = "batch"
    ) -> None:
        super().__init__()
        base = max(1, round(16 * width))
        sizes = [base, 2 * base, 4 * base]
        self.down = nn.ModuleList(
            _level(i, o, norm) for i, o in zip([in_channels, *sizes[:-1]], sizes, strict=True)
        )
        self.up = nn.ModuleList(
            _level(low + high, high, norm)
            for low, high in zip(sizes[:0:-1], sizes[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(base, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes, height, width) of images (batch, channels, height, width)."""
        levels = [self.down[0](x)]
        for level in self.down[1:]:
            levels.append(level(functional.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for level in self.up:
            beside = levels.pop()
            x = functional.interpolate(x, size=beside.shape[2:])
            x = level(torch.cat([x, beside], 1))
        logits: Tensor = self.head(x)
        return logits


def _level(inputs: int, outputs: int, norm: str) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        make_norm(norm, outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        make_norm(norm, outputs),
        nn.ReLU(),
    )
