"""ResNets for small images: 3x3 stem, three stages of basic blocks.

The paper's ResNet-20 has 3x3 convolutions in its shortcuts (``conv3``: 18,646,756 parameters at
width 8 and 100 classes); others use 1x1 (``conv1``) or pad with zeros (``pad``).
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional


class ResNet(nn.Module):
    """``depth = 6 n + 2``: three stages of n basic blocks, of 16, 32, 64 channels times width.

    Args:
        in_channels: Channels of an image.
        num_classes: Width of the output.
        depth: 20, 32, 44, 56, ….
        width: Multiplier of the channels, > 0.
        shortcut: conv3, conv1 or pad, where the shape changes.
        norm: batch or group.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depth: int = 20,
        width: float = 1.0,
        shortcut: str = "conv3",
        norm: str = "batch",
    ) -> None:
        super().__init__()
        base = max(1, round(16 * width))
        blocks = (depth - 2) // 6
        sizes = [base * 2**stage for stage in range(3) for _ in range(blocks)]
        self.conv = nn.Conv2d(in_channels, base, 3, padding=1, bias=False)
        self.norm = make_norm(norm, base)
        self.blocks = nn.Sequential(
            *(
                Block(i, o, 1 if i == o else 2, shortcut, norm)
                for i, o in zip([base, *sizes[:-1]], sizes, strict=True)
            )
        )
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, channels, height, width)."""
        x = self.blocks(functional.relu(self.norm(self.conv(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = make_norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = make_norm(norm, outputs)
        self.shortcut = make_shortcut(shortcut, inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class PadShortcut(nn.Module):
    """Every other pixel, the missing channels zero: no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(batch, outputs, height / stride, width / stride)."""
        picked = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(picked, (0, 0, 0, 0, self.before, self.after))


def make_norm(kind: str, channels: int) -> nn.Module:
    """BatchNorm, or GroupNorm with up to 8 groups."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(8, channels), channels)


def make_shortcut(kind: str, inputs: int, outputs: int, stride: int, norm: str) -> nn.Module:
    """Identity where the shape stays, else as named."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    kernel = 3 if kind == "conv3" else 1
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, make_norm(norm, outputs))


class BottleneckResNet(nn.Module):
    """ResNet-50: four stages of 3, 4, 6 and 3 bottlenecks, of 64 to 512 channels times width.

    Images of more than 64 pixels come in through a 7x7 convolution with stride 2 and a pooling, as
    in torchvision's (25,557,032 parameters at 1,000 classes); smaller ones through a 3x3.

    Args:
        in_channels: Channels of an image.
        num_classes: Width of the output.
        image_size: Height and width of an image.
        width: Multiplier of the channels, > 0.
        norm: batch or group.

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: tuple[int, int],
        width: float = 1.0,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        base = max(1, round(64 * width))
        large = max(image_size) > 64
        kernel, stride = (7, 2) if large else (3, 1)
        self.conv = nn.Conv2d(in_channels, base, kernel, stride, kernel // 2, bias=False)
        self.norm = make_norm(norm, base)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        blocks: list[nn.Module] = []
        inputs = base
        for stage, count in enumerate((3, 4, 6, 3)):
            for number in range(count):
                first = number == 0 and stage > 0
                blocks.append(Bottleneck(inputs, base * 2**stage, 2 if first else 1, norm))
                inputs = _EXPANSION * base * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, channels, height, width)."""
        x = self.blocks(self.pool(functional.relu(self.norm(self.conv(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


_EXPANSION = 4


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1 to four times the channels, and a shortcut."""

    def __init__(self, inputs: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        outputs = _EXPANSION * channels
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.norm1 = make_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.norm2 = make_norm(norm, channels)
        self.conv3 = nn.Conv2d(channels, outputs, 1, bias=False)
        self.norm3 = make_norm(norm, outputs)
        self.shortcut = make_shortcut("conv1", inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm3(self.conv3(functional.relu(self.norm2(self.conv2(y)))))
        return functional.relu(y + self.shortcut(x))
