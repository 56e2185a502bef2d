"""The task ``language-modeling``: the next token, at every place of a text."""

from __future__ import annotations

import math
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

_LONGEST = 700.0  # e to more is beyond a float


@dataclass(frozen=True)
class LanguageModeling:
    """Inputs and targets are the same (n, length) tokens, outputs (n, length, tokens) logits.

    The logits at a place are compared with the token of the next one, so a model must not look
    ahead. Perplexity is e to the mean loss of a token. A target of -100 is no token, such as one
    that only fills a short text up: it is neither learned nor counted. The outputs of an ensemble
    are the logarithms of the mean probabilities.
    """

    metrics = (
        Metric("perplexity", higher_is_better=False),
        Metric("token_accuracy", percent=True),
    )
    has_classes = False

    def targets(self, given: NDArray[np.generic], where: str) -> Tensor:
        """(n, length) int64.

        Raises:
            DataError: If they are no tokens, or a text has less than two places.
        """
        if given.ndim != 2 or not np.issubdtype(given.dtype, np.integer) or given.shape[1] < 2:
            raise DataError(
                f"{where} is {given.dtype} of shape {given.shape}: targets of language-modeling "
                "are integers (n, length), the tokens of texts of two tokens at least"
            )
        given = given.astype(np.int64) if given.dtype != np.uint64 else given
        as_classes(np.where(given == _NONE, 0, given), where)
        return torch.from_numpy(given.astype(np.int64))

    def num_outputs(self, targets: Tensor) -> int:
        """One more than the highest token."""
        return int(targets.max()) + 1

    def output_shape(self, targets: Tensor, num_outputs: int) -> tuple[int, ...]:
        """(n, length, tokens)."""
        return *targets.shape, num_outputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the next tokens in nats, in the mean over tokens; 0 if there is none."""
        logits, tokens = _shifted(outputs, targets)
        loss = functional.cross_entropy(logits, tokens, ignore_index=_NONE, reduction="sum")
        return loss / (tokens != _NONE).sum().clamp_min(1)

    def totals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Tokens, hits, and the sum of the losses."""
        logits, tokens = _shifted(outputs, targets)
        loss = functional.cross_entropy(logits, tokens, ignore_index=_NONE, reduction="sum")
        counts = (tokens != _NONE, logits.argmax(1) == tokens)
        return torch.stack([*(own.sum().double() for own in counts), loss.double()])

    def measure(self, totals: Tensor) -> Mapping[str, float]:
        """Perplexity, the share of tokens that are right, and the mean loss."""
        tokens, hits, loss = totals.tolist()
        mean = ratio(loss, tokens)
        return {
            "loss": mean,
            "perplexity": math.inf if mean > _LONGEST else math.exp(mean),
            "token_accuracy": ratio(hits, tokens),
        }

    def pooled(self, outputs: Sequence[Tensor]) -> Tensor:
        """The logarithms of the mean probabilities."""
        return mean_probabilities(outputs, -1)

    def predictions(self, outputs: Tensor) -> Tensor:
        """(n x (length - 1), tokens) logits, of each place that has a next one."""
        check_axes(outputs, (3,), "has (n, length, tokens)")
        return outputs[:, :-1].flatten(0, -2)

    def information_root(self, predictions: Tensor, directions: Tensor) -> Tensor:
        """That of tokens drawn from the softmax at each place."""
        return softmax_root(predictions, directions)


_NONE = -100


def _shifted(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of all places but the last, and the tokens of all but the first, in one row."""
    logits = outputs[:, :-1].reshape(-1, outputs.shape[-1])
    return logits, targets[:, 1:].reshape(-1)
