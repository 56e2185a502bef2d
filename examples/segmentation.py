"""A class for every pixel: a data set and a network of your own, merged by agents.

python examples/segmentation.py
"""

import tempfile

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import dimat

SIZE = 16
rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")


class Scans(Dataset[tuple[Tensor, Tensor]]):
    """Noisy pictures of one shape; the class of a pixel is the shape's, or 0 beside it."""

    def __init__(self, shape: int, number: int = 100) -> None:
        self.shape, self.number = shape, number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.shape + index)
        i, j = torch.randint(4, SIZE - 4, (2,), generator=generator)
        down, right = (rows - i).abs(), (columns - j).abs()
        inside = [
            down**2 + right**2 < 12,  # a disk
            (down < 2) & (right < 5),  # a bar that lies
            (down < 5) & (right < 2),  # and one that stands
        ][self.shape]
        noise = 0.4 * torch.randn(1, SIZE, SIZE, generator=generator)
        return inside + noise, (self.shape + 1) * inside.long()


def network() -> nn.Sequential:
    """A network that gives four numbers for each pixel, one a class."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 16, 5, padding=2), nn.ReLU()),
        nn.Conv2d(16, 4, 3, padding=1),
    )


with tempfile.TemporaryDirectory() as folder:
    result = dimat.run(
        model=network,
        data=[Scans(shape) for shape in range(3)],  # one for each agent
        task="segmentation",
        topology="full",
        init="shared",
        rounds=5,
        pretrain_epochs=5,
        batch_size=16,
        optimizer={"lr": 0.01},
        merging={"combine": "gram"},
        threads=1,
        controls="local",
        out=f"{folder}/run",
        progress=False,
    )
[alone], merged = result.controls, result.main
print(f"before: {100 * merged.summary['start_miou_mean']:.1f} % mIoU of all shapes")
print(f"alone: {100 * alone.summary['trained_miou_mean']:.1f} %")
print(f"merged: {100 * merged.summary['merged_miou_mean']:.1f} %")
