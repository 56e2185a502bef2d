"""The task ``multilabel``: any number of labels for every sample."""

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
from dimat.tasks.finite import first, place_of
from dimat.tasks.likelihoods import bernoulli_root, check_axes
from dimat.tasks.sums import ratio


@dataclass(frozen=True)
class Multilabel:
    r"""Targets are (n, labels) of 0 and 1, outputs (n, labels) logits; binary cross-entropy.

    A label is predicted where its logit is above 0. Of all samples and labels together,

    .. math:: F_1 = \frac{2\,TP}{2\,TP + FP + FN}

    1 where there was nothing to find and nothing is predicted. ``exact_match`` is the share of
    samples with all labels right. The outputs of an ensemble are the logits of the mean
    probabilities.
    """

    metrics = (Metric("f1", percent=True), Metric("exact_match", percent=True))
    has_classes = False

    def targets(self, given: NDArray[np.generic], where: str) -> Tensor:
        """(n, labels) float32.

        Raises:
            DataError: If they are not 0 and 1 of shape (n, labels), or there is none.
        """
        numbers = np.issubdtype(given.dtype, np.number) or given.dtype == np.bool_
        if given.ndim != 2 or not numbers:
            raise DataError(
                f"{where} is {given.dtype} of shape {given.shape}: targets of multilabel are 0 or "
                "1 for every sample and label, (n, labels)"
            )
        if not given.size:
            raise DataError(f"{where} is empty")
        others = (given != 0) & (given != 1)
        if others.any():
            raise DataError(
                f"{where} has {given[first(others)]}: a label is there, 1, or not, 0; the first "
                f"such is {place_of(others)}"
            )
        return torch.from_numpy(np.ascontiguousarray(given, dtype=np.float32))

    def num_outputs(self, targets: Tensor) -> int:
        """The labels that there are."""
        return int(targets.shape[1])

    def output_shape(self, targets: Tensor, num_outputs: int) -> tuple[int, ...]:
        """(n, labels)."""
        return len(targets), num_outputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy in nats, in the mean over samples and labels."""
        return functional.binary_cross_entropy_with_logits(outputs, targets)

    def totals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Samples, samples all right, found, predicted and true labels, losses and their number."""
        said, true = outputs > 0, targets > 0.5
        loss = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="sum")
        counts = ((said == true).all(1), said & true, said, true)
        sums = [own.sum().double() for own in counts]
        sizes = [loss.new_tensor(size).double() for size in (len(targets), targets.numel())]
        return torch.stack([*sizes, loss.double(), *sums])

    def measure(self, totals: Tensor) -> Mapping[str, float]:
        """F1 of all labels together, the share of samples all right, and the mean loss."""
        samples, entries, loss, exact, found, said, true = totals.tolist()
        f1 = 2 * found / (said + true) if said + true else ratio(samples, samples)
        return {
            "loss": ratio(loss, entries),
            "f1": f1,
            "exact_match": ratio(exact, samples),
        }

    def pooled(self, outputs: Sequence[Tensor]) -> Tensor:
        """The logits of the mean probabilities."""
        each = torch.stack(list(outputs))
        yes = torch.logsumexp(functional.logsigmoid(each), 0)
        no = torch.logsumexp(functional.logsigmoid(-each), 0)
        return yes - no

    def predictions(self, outputs: Tensor) -> Tensor:
        """(n, labels) logits."""
        check_axes(outputs, (2,), "has (n, labels)")
        return outputs

    def information_root(self, predictions: Tensor, directions: Tensor) -> Tensor:
        """That of labels that are drawn independently of each other."""
        return bernoulli_root(predictions, directions)
