"""VGG with BatchNorm for small images: one linear layer after the last pooling."""

from __future__ import annotations

from torch import Tensor, nn

_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
_CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each halved by pooling; for 32 pixels or more."""

    def __init__(self, in_channels: int, num_classes: int, depth: int, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for count, channels in zip(_CONVOLUTIONS[depth], _CHANNELS, strict=True):
            outputs = max(1, round(channels * width))
            for _ in range(count):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
                layers.append(nn.ReLU())
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, channels, height, width)."""
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits
