"""Images that are not at hand: as many of their shape, so that a run can be estimated."""

from __future__ import annotations

import math
import re

import numpy as np
import torch

from dimat.data import Dataset
from dimat.experiment.config.rules import broken_rule
from dimat.state import memory_bytes

_MOST_CLASSES = 10**6
_KNOWN = {
    "cifar10": "50000,10000,32,32,3,10",
    "cifar100": "50000,10000,32,32,3,100",
    "tiny-imagenet": "100000,10000,64,64,3,200",
}


def assumed(what: str) -> Dataset:
    """Random images of a data set that is known by name, or of given numbers.

    Args:
        what: cifar10, cifar100, tiny-imagenet, or
            TRAIN,TEST,HEIGHT,WIDTH,CHANNELS,CLASSES such as 50000,10000,32,32,3,100.

    Raises:
        ConfigError: If it is none of these.
    """
    text = _KNOWN.get(what, what)
    if not re.fullmatch(r"[1-9]\d{0,8}(,[1-9]\d{0,8}){5}", text, re.ASCII):
        rule = f"{', '.join(_KNOWN)}, or TRAIN,TEST,HEIGHT,WIDTH,CHANNELS,CLASSES"
        raise broken_rule("assume", what, rule)
    train, test, *shape, classes = map(int, text.split(","))
    if classes > train:
        raise broken_rule("assume", what, "at least one training image of every class")
    needed = (train + test) * math.prod(shape)
    if needed > memory_bytes():
        raise broken_rule("assume", what, f"smaller: these images are {needed / 1e9:,.0f} GB")
    if classes > _MOST_CLASSES:
        raise broken_rule("assume", classes, f"<= {_MOST_CLASSES:,}, in CLASSES")
    random = np.random.default_rng(0)

    def images(count: int) -> torch.Tensor:
        return torch.from_numpy(random.integers(0, 256, (count, *shape), dtype=np.uint8))

    labels = [torch.arange(count) % classes for count in (train, test)]
    return Dataset(f"as {what}", images(train), labels[0], images(test), labels[1])
