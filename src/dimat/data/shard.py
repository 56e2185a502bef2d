"""The shard of one agent: its samples on the device, the only data that it ever sees."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from dimat.data.augment import flip_and_crop
from dimat.data.seeding import generator
from dimat.data.stored import Rows, StoredTensor, in_batches, read_rows, tensor_of

_READY_BYTES = 2**18  # of all of a shard: a batch of 32 digits takes 5 us in place of 20


def normalize(images: Tensor) -> Tensor:
    """Images as float32 (n, channels, height, width), with black at -2 and white at 2.

    The numbers are fixed, so that no statistics of anybody's images have to be shared.

    Args:
        images: (n, height, width, channels), uint8 or float in [0, 1].
    """
    scale = 255.0 if images.dtype == torch.uint8 else 1.0
    return ((images.float() / scale) - 0.5) / 0.25


def sample_batches(
    available: int, num_images: int, batch_size: int, random: torch.Generator
) -> tuple[Tensor, ...]:
    """The indices of random images in batches of nearly equal size.

    No image is alone in a batch, unless it is the only one: BatchNorm has no variance of one.

    Args:
        available: Number of images that there are.
        num_images: Number of images to pick; all of them if there are fewer.
        batch_size: Wanted number of images in a batch.
        random: Generator of the choice.
    """
    count = min(num_images, available)
    order = torch.randperm(available, generator=random, device=random.device)[:count]
    batches = max(1, min(-(-count // batch_size), count // 2))
    return order.tensor_split(batches)


class Shard:
    """The samples of one agent, a part of them held out for validation.

    Those that are not in memory are read whenever a batch has them; random transforms of theirs
    draw from the generator of the batch, and from none but fixed numbers where no training is.

    Args:
        inputs: Images (n, height, width, channels), uint8 or float in [0, 1]; or other arrays,
            samples first.
        targets: (n,) int64 labels, or targets of another task, samples first.
        held: (n,) bool mask of the samples held out; None: none is.
        device: Device on which the samples are kept.
        images: Whether inputs are images, which models get normalized; others they get as they are.
    """

    def __init__(
        self,
        inputs: Rows,
        targets: Rows,
        *,
        held: Tensor | None = None,
        device: str = "cpu",
        images: bool = True,
    ) -> None:
        if held is None:
            held = torch.zeros(len(targets), dtype=torch.bool)
        self._images = images
        self._train = _place(inputs[~held], targets[~held], device, images=images)
        self._validation = _place(inputs[held], targets[held], device, images=images)

    @staticmethod
    def whole(
        inputs: Rows, targets: Rows, device: str = "cpu", *, images: bool = True
    ) -> tuple[Rows, Rows]:
        """All inputs as models get them, and their targets, as a test set.

        Args:
            inputs: As the shard takes them.
            targets: As the shard takes them.
            device: Device of the result.
            images: As in the shard.
        """
        x, y = _place(inputs, targets, device, images=images)
        return _normalized(x) if images else x, y

    @cached_property
    def _ready(self) -> Tensor | None:
        """The training samples as models get them, if they are few: else they are made by batch."""
        inputs = self._train[0]
        if not isinstance(inputs, Tensor) or 4 * inputs.numel() > _READY_BYTES:
            return None
        return self._seen(inputs)

    def _seen(self, inputs: Tensor) -> Tensor:
        """Inputs as models get them."""
        return normalize(inputs) if self._images else inputs

    def __len__(self) -> int:
        """Number of training samples."""
        return len(self._train[1])

    def class_counts(self, num_classes: int) -> Tensor:
        """(num_classes,) numbers of training images of each class.

        Args:
            num_classes: Number of classes of all agents.
        """
        return torch.bincount(tensor_of(self._train[1]), minlength=num_classes)

    def num_batches(self, batch_size: int) -> int:
        """Number of full batches in an epoch."""
        return len(self) // batch_size

    def epoch(
        self, batch_size: int, random: torch.Generator, augment: bool = False, skip: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The full batches of one epoch in random order; the images left over are left out.

        Args:
            batch_size: 1 <= batch_size <= number of training images.
            random: Generator on the shard's device, which alone determines order and augmentation.
            augment: Whether images are flipped and cropped at random.
            skip: First batches that are left out, whose random numbers are drawn nevertheless.

        Yields:
            Inputs as models get them, float32 (batch, channels, height, width) of images, and their
            targets.
        """
        images, labels = self._train
        order = torch.randperm(len(labels), generator=random, device=random.device)
        if augment and skip:
            pixel = torch.zeros(batch_size, 1, 1, 1, device=random.device)
            for _ in range(skip):
                flip_and_crop(pixel, random)
        for k in range(skip, self.num_batches(batch_size)):
            picked = order[k * batch_size : (k + 1) * batch_size]
            if not augment and self._ready is not None:
                yield self._ready[picked], read_rows(labels, picked)
                continue
            seed = _batch_seed(images, random, k)
            batch = read_rows(images, picked, seed)
            seen = self._seen(flip_and_crop(batch, random) if augment else batch)
            yield seen, read_rows(labels, picked, seed)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All training images once, in their order and not augmented, and their labels.

        Args:
            batch_size: Images of a batch, >= 1; the last may have fewer.

        Yields:
            float32 (batch, channels, height, width) and (batch,) int64.
        """
        for images, labels in in_batches(*self._train, batch_size):
            yield self._seen(images), labels

    def calibration(
        self, num_images: int, batch_size: int, random: torch.Generator
    ) -> list[Tensor]:
        """Batches of random training images without augmentation, of nearly equal size.

        Args:
            num_images: Number of images; all of them if there are fewer.
            batch_size: Wanted number of images in a batch.
            random: Generator of the choice, on the shard's device.
        """
        images, _ = self._train
        parts = sample_batches(len(images), num_images, batch_size, random)
        return [
            self._seen(read_rows(images, part, _batch_seed(images, random, k)))
            for k, part in enumerate(parts)
        ]

    def validation(self) -> tuple[Rows, Rows]:
        """The samples that are held out: inputs as models get them, and targets."""
        images, labels = self._validation
        return _normalized(images) if self._images else images, labels


def _batch_seed(own: Rows, random: torch.Generator, number: int) -> int:
    """Seed of the random transforms of a batch, from nothing but its generator and its number."""
    if not isinstance(own, StoredTensor):
        return 0
    return generator(random.initial_seed(), number).initial_seed()


def _normalized(images: Rows) -> Rows:
    """Images as models get them, whenever they are read."""
    return images.then(normalize) if isinstance(images, StoredTensor) else normalize(images)


def _place(inputs: Rows, targets: Rows, device: str, *, images: bool) -> tuple[Rows, Rows]:
    """Samples on a device, whenever they are read; images with channels first."""

    def move(x: Tensor) -> Tensor:
        if not images:
            return x.to(device)
        return x.permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)

    x = inputs.then(move) if isinstance(inputs, StoredTensor) else move(inputs)
    if isinstance(targets, StoredTensor):
        return x, targets.then(lambda y: y.to(device))
    return x, targets.to(device)
