"""A plain multi-layer perceptron."""

from __future__ import annotations

from torch import Tensor, nn


class MLP(nn.Module):
    """Two hidden layers of ``128 * width`` ReLU units, no normalization."""

    def __init__(self, in_features: int, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        hidden = max(1, round(128 * width))
        self.hidden1 = nn.Linear(in_features, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, num_classes) of inputs (batch, ...), which are flattened."""
        x = self.hidden1(x.flatten(1)).relu()
        logits: Tensor = self.head(self.hidden2(x).relu())
        return logits
