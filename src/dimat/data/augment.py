"""Augmentation of whole batches on the device: random flip, random crop after padding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def flip_and_crop(images: Tensor, random: torch.Generator, padding: int = 4) -> Tensor:
    """Mirror every other image on average, and shift each by up to ``padding`` pixels.

    Args:
        images: (n, channels, height, width), any dtype; not changed.
        random: On the images' device.
        padding: Zeros around an image before it is cropped to its size again, >= 0.

    Returns:
        Images of the same shape and dtype.
    """
    n, _, height, width = images.shape
    device = images.device
    flips = torch.rand(n, generator=random, device=device) < 0.5
    shifts = torch.randint(0, 2 * padding + 1, (2, n), generator=random, device=device)
    rows = shifts[0][:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    columns = shifts[1][:, None] + torch.where(flips[:, None], columns.flip(1), columns)
    padded = functional.pad(images, (padding,) * 4)
    each = torch.arange(n, device=device)
    picked = padded.permute(0, 2, 3, 1)[each[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
