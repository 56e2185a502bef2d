"""The task ``segmentation``: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dimat.errors import DataError
from dimat.metric import Metric
from dimat.tasks.labels import as_classes
from dimat.tasks.likelihoods import check_axes, softmax_root
from dimat.tasks.sums import mean_probabilities, ratio


@dataclass(frozen=True)
class Segmentation:
    r"""Targets are (n, height, width) integers, outputs (n, classes, height, width) logits.

    Cross-entropy of all pixels. The mean over classes of intersection over union is that of all
    pixels of all samples together, from their confusion matrix :math:`C`,

    .. math:: \text{IoU}_c = \frac{C_{cc}}{\sum_j C_{cj} + \sum_i C_{ic} - C_{cc}}

    over the classes that are there or are predicted. The outputs of an ensemble are the logarithms
    of the mean probabilities.

    Args:
        void: A pixel of this number has no class: it is neither learned nor counted.
    """

    void: int = 255
    metrics = (Metric("miou", percent=True), Metric("pixel_accuracy", percent=True))
    has_classes = False

    def targets(self, given: NDArray[np.generic], where: str) -> Tensor:
        """(n, height, width) int64.

        Raises:
            DataError: If they are no integers >= 0 of that shape, or there is none.
        """
        if given.ndim != 3 or not np.issubdtype(given.dtype, np.integer):
            raise DataError(
                f"{where} is {given.dtype} of shape {given.shape}: targets of segmentation are "
                "integers (n, height, width), the class of every pixel"
            )
        return as_classes(given, where)

    def num_outputs(self, targets: Tensor) -> int:
        """One more than the highest class."""
        there = targets[targets != self.void]
        return int(there.max()) + 1 if len(there) else 1

    def output_shape(self, targets: Tensor, num_outputs: int) -> tuple[int, ...]:
        """(n, classes, height, width)."""
        return len(targets), num_outputs, *targets.shape[1:]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, in the mean over the pixels that have a class; 0 if none has."""
        loss = functional.cross_entropy(outputs, targets, ignore_index=self.void, reduction="sum")
        return loss / (targets != self.void).sum().clamp_min(1)

    def totals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of the losses, and the confusion matrix: true classes by rows."""
        classes = outputs.shape[1]
        loss = functional.cross_entropy(outputs, targets, ignore_index=self.void, reduction="sum")
        there = targets != self.void
        pairs = targets[there] * classes + outputs.argmax(1)[there]
        confusion = torch.bincount(pairs, minlength=classes * classes)
        return torch.cat([loss.double()[None], confusion.double()])

    def measure(self, totals: Tensor) -> Mapping[str, float]:
        """Mean intersection over union, the share of pixels that are right, and the mean loss."""
        loss, confusion = float(totals[0]), totals[1:]
        classes = round(len(confusion) ** 0.5)
        confusion = confusion.reshape(classes, classes)
        hits, pixels = confusion.diagonal(), float(confusion.sum())
        union = confusion.sum(0) + confusion.sum(1) - hits
        return {
            "loss": ratio(loss, pixels),
            "miou": float((hits / union)[union > 0].mean()),
            "pixel_accuracy": ratio(float(hits.sum()), pixels),
        }

    def pooled(self, outputs: Sequence[Tensor]) -> Tensor:
        """The logarithms of the mean probabilities."""
        return mean_probabilities(outputs)

    def predictions(self, outputs: Tensor) -> Tensor:
        """(n x height x width, classes) logits, of each pixel."""
        check_axes(outputs, (4,), "has (n, classes, height, width)")
        return outputs.movedim(1, -1).flatten(0, -2)

    def information_root(self, predictions: Tensor, directions: Tensor) -> Tensor:
        """That of classes drawn from the softmax at each pixel."""
        return softmax_root(predictions, directions)

    def label_shares(self, targets: Tensor, num_outputs: int) -> Tensor:
        """The share of each class in the pixels of an image that have one."""
        there = targets != self.void
        image = torch.arange(len(targets)).reshape(-1, 1, 1) * num_outputs
        pixels = torch.bincount((targets + image)[there], minlength=len(targets) * num_outputs)
        counts = pixels.reshape(len(targets), num_outputs).double()
        return counts / counts.sum(1, keepdim=True).clamp_min(1)
