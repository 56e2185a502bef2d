"""Counts of the classes that an agent takes test samples for, and its recall of each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dimat.exchange.tree import Tree
from dimat.experiment.setup import Setup

MOST_CLASSES = 1000  # of which the counts take 8 MB


@dataclass
class Confusion:
    """How often an agent takes test samples of each class for each class.

    Args:
        counts: (classes, classes) int64: a row for each true class, a column for each predicted.
    """

    counts: Tensor

    @classmethod
    def of(cls, setup: Setup) -> Confusion | None:
        """Counts of 0; None without classes or test samples, or with too many classes to count."""
        classes = setup.num_outputs
        if not setup.task.has_classes or classes > MOST_CLASSES or not len(setup.test[1]):
            return None
        return cls(torch.zeros(classes, classes, dtype=torch.int64, device=setup.config.device))

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: (batch, classes) outputs.
            labels: (batch,) true classes.
        """
        classes = len(self.counts)
        pairs = labels * classes + logits.argmax(1)
        self.counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes)

    @property
    def recall(self) -> list[float | None]:
        """The share of each class's samples that are taken for it, to 4 digits; None without any.

        >>> Confusion(torch.tensor([[2, 1, 0], [0, 4, 0], [0, 0, 0]])).recall
        [0.6667, 1.0, None]
        """
        rows = zip(self.counts.diag().tolist(), self.counts.sum(1).tolist(), strict=True)
        return [round(own / whole, 4) if whole else None for own, whole in rows]

    def tree(self, *, whole: bool) -> Tree:
        """The recall, and the counts if they are wanted, for the process that writes."""
        return {"recall": self.recall, "counts": self.counts.cpu() if whole else None}
