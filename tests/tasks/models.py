"""Small models of the tasks, as a user's own module has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pixelwise(in_channels: int, num_outputs: int) -> nn.Module:
    """A class for each pixel."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, num_outputs, 1)
    )


class Next(nn.Module):
    """The next token, from this one."""

    def __init__(self, num_tokens: int, num_outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, 16)
        self.hidden = nn.Linear(16, 32)
        self.head = nn.Linear(32, num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, length, tokens) logits."""
        logits: Tensor = self.head(torch.relu(self.hidden(self.embedding(tokens))))
        return logits


class OfTexts(Next):
    """A class for each text."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, classes) logits."""
        return super().forward(tokens).mean(1)


def narrow(num_outputs: int, in_features: int) -> nn.Module:
    """One output too few."""
    return nn.Linear(in_features, num_outputs + 1)
