r"""Local losses of agents that have few of the classes, or few images of some.

An agent that trains on two classes alone learns to answer with one of those two, whatever it sees:
cross-entropy pushes the logits of all absent classes down, and what a merge has brought of them is
forgotten before the next one. So the agent's own class shares are put into the softmax:

.. math:: \ell(z, y) = -\log \frac{\exp(z_y + b_y)}{\sum_c \exp(z_c + b_c)}

with :math:`b = 0` (``plain``); :math:`b_c = 0` for the agent's own classes and :math:`-\infty` for
absent ones (``own-classes``, a softmax over its own classes); or :math:`b_c = \log p_c`, where
:math:`p_c` is the class's share of the agent's own images (``adjusted``). The logits of absent
classes get no gradient. Nothing leaves the agent, and predictions are by the bare logits.

References:
    Li and Zhan, "FedRS: Federated Learning with Restricted Softmax for Label Distribution Non-IID
    Data", KDD 2021; Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021; Zhang et
    al., "Federated Learning with Label Distribution Skew via Logits Calibration", ICML 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from dimat.errors import ConfigError
from dimat.state import brief

__all__ = ["LocalLoss", "Logits", "local_loss", "loss_of_counts"]

Logits = Literal["plain", "own-classes", "adjusted"]


@dataclass(frozen=True)
class LocalLoss:
    """The cross-entropy of an agent's logits, with an offset for every class.

    Args:
        offset: (classes,) float32 added to the logits; None: nothing is.
    """

    offset: Tensor | None = None

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
        return functional.cross_entropy(logits, labels)


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
