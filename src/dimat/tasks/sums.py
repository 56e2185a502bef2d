"""What several tasks make of sums and of probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def ratio(part: float, whole: float) -> float:
    """``part / whole``, NaN for an empty whole.

    >>> ratio(1.0, 4.0), ratio(0.0, 0.0)
    (0.25, nan)
    """
    return part / whole if whole else math.nan


def mean_probabilities(logits: Sequence[Tensor], dim: int = 1) -> Tensor:
    """The logarithms of the mean of several models' probabilities.

    Args:
        logits: Logits of each model.
        dim: Axis of the classes.
    """
    each = torch.stack([torch.log_softmax(own, dim) for own in logits])
    return torch.logsumexp(each, 0) - math.log(len(logits))
