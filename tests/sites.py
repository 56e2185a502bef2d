"""Three sites with some of the digits each: other classes, other numbers of images, other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dimat.data.digits import digits

CLASSES = tuple("0123456789")
KNOWS = ((0, 1, 2), (3, 4, 5, 6), (7, 8, 9))  # classes of each site
HAS = (60, 200, 333)  # its training images
BATCH = (10, 16, 32)


def images_of(site: int) -> np.ndarray:
    """Indices of the training images of a site, among those of the digits."""
    known = torch.isin(digits().train_y, torch.tensor(KNOWS[site]))
    return np.flatnonzero(known.numpy())[: HAS[site]]


def as_archive(path: Path, indices: np.ndarray, *, tests: bool = False, **changes: Any) -> str:
    """A source of some of the digits' training images, with the test images of their classes."""
    whole = digits()
    arrays = {"train_x": whole.train_x.numpy()[indices], "train_y": whole.train_y.numpy()[indices]}
    if tests:
        known = np.isin(whole.test_y.numpy(), arrays["train_y"])
        arrays |= {"test_x": whole.test_x.numpy()[known], "test_y": whole.test_y.numpy()[known]}
    np.savez(path, **{**arrays, **changes})
    return f"npz:{path}"


def as_folder(path: Path, indices: np.ndarray) -> str:
    """The same as a folder of pictures, which has no test images."""
    whole = digits()
    for index in indices.tolist():
        file = path / "train" / str(int(whole.train_y[index])) / f"{index:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(whole.train_x[index, :, :, 0].numpy()).save(file)
    return f"folder:{path}"


def sources(folder: Path) -> list[str]:
    """Sources of the three sites; that of the second alone has test images of its own."""
    return [
        as_folder(folder / "first", images_of(0)),
        as_archive(folder / "second.npz", images_of(1), tests=True),
        as_archive(folder / "third.npz", images_of(2)),
    ]
