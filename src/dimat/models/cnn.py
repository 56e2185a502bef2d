"""A small convolutional network with BatchNorm."""

from __future__ import annotations

from torch import Tensor, nn


class CNN(nn.Module):
    """Three 3x3 convolutions (32, 64, 64 channels times width), two poolings, a linear head."""

    def __init__(self, in_channels: int, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        a, b = max(1, round(32 * width)), max(1, round(64 * width))
        self.features = nn.Sequential(
            *_layer(in_channels, a), nn.MaxPool2d(2), *_layer(a, b), nn.MaxPool2d(2), *_layer(b, b)
        )
        self.head = nn.Linear(b, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, channels, height, width)."""
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


def _layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
