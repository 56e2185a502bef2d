"""One agent's images, on the device: the only data it ever sees."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dimat.data.augment import flip_and_crop


def normalize(images: Tensor) -> Tensor:
    """float32 (n, channels, height, width) with black at -2 and white at 2.

    Fixed numbers, so that nothing has to be learned from anyone's images.
    """
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    return ((images.float() / scale) - 0.5) / 0.25


def sample_batches(
    available: int, num_images: int, batch_size: int, random: torch.Generator
) -> tuple[Tensor, ...]:
    """Indices of random images, at most all of them, in equal batches.

    No image is alone in a batch, unless it is the only one: it has no statistics.
    """
    count = min(num_images, available)
    order = torch.randperm(available, generator=random, device=random.device)[:count]
    batches = max(1, min(-(-count // batch_size), count // 2))
    return order.tensor_split(batches)


class Shard:
    """The images of one agent, a part of them held out for validation.

    Args:
        images: (n, height, width, channels), uint8 or float in [0, 1].
        labels: (n,) int64.
        held: (n,) bool, which are held out; None: none are.
        device: Where the images are kept.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        held: Tensor | None = None,
        device: str = "cpu",
    ) -> None:
        if held is None:
            held = torch.zeros(len(labels), dtype=torch.bool)
        self._train = _place(images[~held], labels[~held], device)
        self._validation = _place(images[held], labels[held], device)

    @staticmethod
    def whole(images: Tensor, labels: Tensor, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """All images normalized, and their labels: a test set."""
        x, y = _place(images, labels, device)
        return normalize(x), y

    def __len__(self) -> int:
        """Number of training images."""
        return len(self._train[1])

    def num_batches(self, batch_size: int) -> int:
        """Full batches in an epoch."""
        return len(self) // batch_size

    def epoch(
        self, batch_size: int, random: torch.Generator, augment: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches in random order; the rest is left out.

        Args:
            batch_size: 1 <= batch_size <= number of training images.
            random: On the shard's device; order and augmentation depend on it alone.
            augment: Random flip and crop.

        Yields:
            float32 (batch, channels, height, width) and (batch,) int64.
        """
        images, labels = self._train
        order = torch.randperm(len(labels), generator=random, device=labels.device)
        for k in range(self.num_batches(batch_size)):
            picked = order[k * batch_size : (k + 1) * batch_size]
            batch = images[picked]
            yield normalize(flip_and_crop(batch, random) if augment else batch), labels[picked]

    def calibration(
        self, num_images: int, batch_size: int, random: torch.Generator
    ) -> list[Tensor]:
        """Random training images without augmentation, at most all of them, in equal batches.

        No image is alone in a batch, unless it is the only one: it has no statistics.
        """
        images, _ = self._train
        parts = sample_batches(len(images), num_images, batch_size, random)
        return [normalize(images[part]) for part in parts]

    def validation(self) -> tuple[Tensor, Tensor]:
        """The images held out, normalized, and their labels."""
        images, labels = self._validation
        return normalize(images), labels


def _place(images: Tensor, labels: Tensor, device: str) -> tuple[Tensor, Tensor]:
    moved = images.permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    return moved, labels.to(device)
