r"""Local losses of agents that have few of the classes, or few images of some.

An agent that trains on two classes alone learns to answer with one of those two, whatever it sees:
cross-entropy pushes the logits of all absent classes down, and what a merge has brought of them is
forgotten before the next one. So the agent's own class shares are put into the softmax:

.. math:: \ell(z, y) = -\log \frac{\exp(z_y + b_y)}{\sum_c \exp(z_c + b_c)}

with :math:`b = 0` (``plain``); :math:`b_c = 0` for the agent's own classes and :math:`-\infty` for
absent ones (``own-classes``, a softmax over its own classes); or :math:`b_c = \log p_c`, where
:math:`p_c` is the class's share of the agent's own images (``adjusted``). The logits of absent
classes get no gradient. Nothing leaves the agent, and predictions are by the bare logits.

No agent compares classes of which none has images of both, so in many rounds their logits drift
apart, and a merge that takes over what each agent knows whole takes its drift over, too. Not-true
distillation holds them: to the loss of a step it adds

.. math:: \beta\, \mathrm{KL}\big(\mathrm{softmax}(z^0_{c \ne y}) \,\big\|\,
    \mathrm{softmax}(z_{c \ne y})\big)

where :math:`z^0` are the logits of the network that the round's training began with, the merged
one, on the agent's own batch. The true class y is left out of both, so it is learned as before.

References:
    Li and Zhan, "FedRS: Federated Learning with Restricted Softmax for Label Distribution Non-IID
    Data", KDD 2021; Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021; Zhang et
    al., "Federated Learning with Label Distribution Skew via Logits Calibration", ICML 2022; Lee et
    al., "Preservation of the Global Knowledge by Not-True Distillation in Federated Learning",
    NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from dimat.errors import ConfigError
from dimat.text import brief

__all__ = [
    "LocalLoss",
    "Logits",
    "local_loss",
    "loss_of_counts",
    "not_true_distillation",
    "not_true_divergences",
]

Logits = Literal["plain", "own-classes", "adjusted"]
# Of not-true distillation where shards differ: it holds the logits of an MLP over thirty merges as
# well as 1 does, which takes a CNN with BatchNorm four points by class (docs/split_data.md).
NOT_TRUE_WEIGHT = 0.1


@dataclass(frozen=True)
class LocalLoss:
    """The loss of an agent's outputs, with an offset for every class.

    Args:
        offset: (classes,) float32 added to the logits; None: nothing is.
        base: The mean loss of outputs and targets, cross-entropy or that of another task.
        smoothing: Share of every label that is spread over all classes of the agent, in [0, 1).
    """

    offset: Tensor | None = None
    base: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    smoothing: float = 0.0

    __repr__ = brief

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, in float32.

        Args:
            logits: (batch, classes), or (batch, classes, ...) with a label at every place.
            labels: (batch,) or (batch, ...), int64; of classes of which the agent has images.
        """
        logits = logits.float()
        if self.offset is not None:
            logits = logits + self.offset.reshape(-1, *(1,) * (logits.dim() - 2))
        loss = self.base(logits, labels)
        if not self.smoothing:
            return loss
        logs = logits.log_softmax(1)
        here = logs > -torch.inf  # absent classes have no share of a label
        spread = logs.masked_fill(~here, 0.0).sum(1) / here.sum(1)
        return (1 - self.smoothing) * loss - self.smoothing * spread.mean()


def not_true_distillation(logits: Tensor, before: Tensor, labels: Tensor) -> Tensor:
    """The divergence from what a network said before of all classes but the true one.

    Args:
        logits: (batch, classes), or (batch, classes, ...) with a label at every place.
        before: Logits of the network with which the training began, on the same inputs, of the same
            shape; no gradient is taken of them.
        labels: (batch,) or (batch, ...), int64.

    Returns:
        The mean over all labels, >= 0, in float32: KL of the softmax of ``before`` from that of
        ``logits``, both over the classes that are not true; 0 of two classes.

    >>> z, y = torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([0])
    >>> not_true_distillation(z, torch.tensor([[-5.0, 1.0, 2.0]]), y)  # alike, but for the true one
    tensor(0.)
    """
    return not_true_divergences(logits, before, labels).mean()


def not_true_divergences(logits: Tensor, before: Tensor, labels: Tensor) -> Tensor:
    """The divergence of every sample of which :func:`not_true_distillation` is the mean.

    Args:
        logits: As there.
        before: As there.
        labels: As there.

    Returns:
        Of the shape of ``labels``.
    """
    true = torch.zeros_like(logits, dtype=torch.bool).scatter(1, labels[:, None], True)
    # Finite, as 0 * inf is not: its exponential is 0.
    least = torch.finfo(torch.float32).min / 2
    new, old = (
        z.float().masked_fill(true, least).log_softmax(1) for z in (logits, before.detach())
    )
    apart = functional.kl_div(new, old, reduction="none", log_target=True)
    return apart.masked_fill(true, 0.0).sum(1)


def local_loss(labels: Tensor, num_classes: int, logits: Logits = "adjusted") -> LocalLoss:
    """The local loss of an agent, made from the labels of its own training images.

    Args:
        labels: Labels of all training images of the agent, int64 of any shape, not empty; the loss
            lives on their device.
        num_classes: Number of classes of all agents.
        logits: plain, own-classes or adjusted.

    Raises:
        ConfigError: If a label is no class, or ``logits`` is none of the three.

    >>> loss = local_loss(torch.tensor([0, 0, 0, 2]), num_classes=3)
    >>> loss.offset.exp()
    tensor([0.7500, 0.0000, 0.2500])
    >>> loss(torch.zeros(1, 3), torch.tensor([2])).exp()  # one in four
    tensor(4.)
    """
    if not labels.numel() or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        seen = f"{int(labels.min())} to {int(labels.max())}" if labels.numel() else "none"
        raise ConfigError(f"labels are {seen}: must be in 0 to {num_classes - 1}, one at least")
    return loss_of_counts(torch.bincount(labels.flatten(), minlength=num_classes), logits)


def loss_of_counts(counts: Tensor, logits: Logits) -> LocalLoss:
    """The local loss of an agent, from the number of its images of each class.

    Where all are of one class a softmax over own classes would leave nothing to learn: one image
    is added to every class then.

    Args:
        counts: (classes,) numbers of images, >= 0.
        logits: plain, own-classes or adjusted.

    Raises:
        ConfigError: If ``logits`` is none of the three.
    """
    if logits not in get_args(Logits):
        known = ", ".join(get_args(Logits))
        raise ConfigError(f"logits is {logits!r}: must be one of {known}")
    if logits == "plain":
        return LocalLoss()
    if int((counts > 0).sum()) < 2:
        counts = counts + 1
    elif logits == "own-classes":
        return LocalLoss((counts > 0).float().log())
    return LocalLoss((counts / counts.sum()).float().log())
