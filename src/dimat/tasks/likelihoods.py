"""Likelihoods that tasks have: roots of the Fisher information of a prediction."""

from __future__ import annotations

from torch import Tensor

from dimat.errors import ModelError


def softmax_root(logits: Tensor, directions: Tensor) -> Tensor:
    r"""The root of a class's: :math:`S = \operatorname{diag}\sqrt p - p \sqrt p^\top`.

    For probabilities p = softmax z it is :math:`S S^\top = \operatorname{diag} p - p p^\top`, the
    covariance of the one-hot class.

    Args:
        logits: (rows, classes).
        directions: (rows, classes).
    """
    p = logits.softmax(-1)
    along = p.sqrt() * directions
    return along - p * along.sum(-1, keepdim=True)


def bernoulli_root(logits: Tensor, directions: Tensor) -> Tensor:
    r"""The root of independent labels': :math:`S = \operatorname{diag}\sqrt{p (1 - p)}`.

    Args:
        logits: (rows, labels), of p = sigmoid z.
        directions: (rows, labels).
    """
    return (logits.sigmoid() * (-logits).sigmoid()).sqrt() * directions


def check_axes(outputs: Tensor, axes: tuple[int, ...], what: str) -> None:
    """Refuse outputs of another number of axes.

    Args:
        outputs: The outputs.
        axes: The numbers of axes that they may have.
        what: What the task has, for the message.

    Raises:
        ModelError: With their shape.
    """
    if outputs.dim() not in axes:
        raise ModelError(f"outputs have shape {tuple(outputs.shape)}, and the task {what}")
