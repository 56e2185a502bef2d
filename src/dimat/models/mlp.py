"""A plain multi-layer perceptron."""

from __future__ import annotations

from torch import Tensor, nn


class MLP(nn.Module):
    """Two hidden layers of ``128 * width`` ReLU units.

    Args:
        in_features: Numbers of an input.
        num_classes: Width of the output.
        width: Multiplier of the hidden units, > 0.
        table: Whether inputs are columns of any scale: BatchNorm brings each to mean 0 and variance
            1 first, by statistics that are a part of the model as any layer's are.
    """

    def __init__(
        self, in_features: int, num_classes: int, width: float = 1.0, *, table: bool = False
    ) -> None:
        super().__init__()
        hidden = max(1, round(128 * width))
        # With 0.1, the default, statistics of columns in the thousands lag for 50 steps.
        scaled = nn.BatchNorm1d(in_features, affine=False, momentum=0.3) if table else None
        self.columns = scaled or nn.Identity()
        self.hidden1 = nn.Linear(in_features, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, num_classes) of inputs (batch, ...), which are flattened."""
        x = self.hidden1(self.columns(x.flatten(1))).relu()
        logits: Tensor = self.head(self.hidden2(x).relu())
        return logits
