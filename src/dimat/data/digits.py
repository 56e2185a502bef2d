"""The source ``digits``: images that come with scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from dimat.data.dataset import Dataset, Tell, quiet


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, cached: to parse the text that they are stored as takes time."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.round(raw.images[..., None] * (255 / 16)).astype(np.uint8)
    return images, raw.target.astype(np.int64)


def digits(path: str = "", tell: Tell = quiet) -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels; every fifth image of a class is a test image."""
    images, labels = _digits()
    test = np.zeros(len(labels), np.bool_)
    for label in range(10):
        test[np.flatnonzero(labels == label)[::5]] = True
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    hold = torch.from_numpy(test)
    return Dataset("digits", x[~hold], y[~hold], x[hold], y[hold])
