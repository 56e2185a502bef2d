"""The source ``digits``: images that come with scikit-learn."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from dimat.data.dataset import Dataset, Tell, quiet
from dimat.errors import DataError


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, cached: to parse the text that they are stored as takes time.

    The file is read without scikit-learn, which takes half a second to import, and with pandas
    beside it more than a second.
    """
    found = find_spec("sklearn")
    folders = found.submodule_search_locations if found else None
    path = Path(next(iter(folders or ()), "sklearn"), "datasets", "data", "digits.csv.gz")
    try:
        rows = np.loadtxt(path, delimiter=",")  # 64 values of 0 … 16, and the digit
    except OSError as error:
        raise DataError(
            f"data.source digits: {path} cannot be read: it comes with scikit-learn, so install "
            "that, or give data of your own, as npz:PATH"
        ) from error
    images = np.round(rows[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return images, rows[:, -1].astype(np.int64)


def digits(path: str = "", tell: Tell = quiet) -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels; every fifth image of a class is a test image."""
    images, labels = _digits()
    test = np.zeros(len(labels), np.bool_)
    for label in range(10):
        test[np.flatnonzero(labels == label)[::5]] = True
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    hold = torch.from_numpy(test)
    return Dataset("digits", x[~hold], y[~hold], x[hold], y[hold])
