"""The task ``classification``: one class of several for every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dimat.errors import ModelError
from dimat.metric import ACCURACY
from dimat.tasks.labels import as_labels
from dimat.tasks.likelihoods import check_axes, softmax_root
from dimat.tasks.sums import mean_probabilities, ratio


@dataclass(frozen=True)
class Classification:
    """Targets are (n,) integers from 0 on, outputs (n, classes) logits; cross-entropy, accuracy.

    The outputs of an ensemble are the logarithms of the mean probabilities.
    """

    metrics = (ACCURACY,)
    has_classes = True

    def targets(self, given: NDArray[np.generic], where: str) -> Tensor:
        """(n,) int64 labels."""
        return as_labels(given, where)

    def num_outputs(self, targets: Tensor) -> int:
        """One more than the highest label."""
        return int(targets.max()) + 1

    def output_shape(self, targets: Tensor, num_outputs: int) -> tuple[int, ...]:
        """(n, classes)."""
        return len(targets), num_outputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats."""
        return functional.cross_entropy(outputs, targets)

    def totals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Samples, hits, and the sum of the losses."""
        hits = (outputs.argmax(1) == targets).sum()
        loss = functional.cross_entropy(outputs, targets, reduction="sum")
        return torch.stack([hits.new_tensor(len(targets)).double(), hits.double(), loss.double()])

    def measure(self, totals: Tensor) -> Mapping[str, float]:
        """The share of hits, and the mean loss."""
        samples, hits, loss = totals.tolist()
        return {"loss": ratio(loss, samples), "accuracy": ratio(hits, samples)}

    def pooled(self, outputs: Sequence[Tensor]) -> Tensor:
        """The logarithms of the mean probabilities."""
        return mean_probabilities(outputs)

    def predictions(self, outputs: Tensor) -> Tensor:
        """(n, classes) logits; of models that say a class at each of several places, all those.

        Raises:
            ModelError: If they are no logits of classes along the last of two or three axes.
        """
        has = "has class logits, two or more along the last of two or three axes"
        check_axes(outputs, (2, 3), has)
        if outputs.shape[-1] < 2:
            raise ModelError(f"outputs have shape {tuple(outputs.shape)}, and the task {has}")
        return outputs.flatten(0, -2)

    def information_root(self, predictions: Tensor, directions: Tensor) -> Tensor:
        """That of a class drawn from the softmax."""
        return softmax_root(predictions, directions)
