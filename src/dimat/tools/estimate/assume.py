"""Images that are not at hand: as many of their shape, so that a run can be estimated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray

from dimat.data import Dataset
from dimat.errors import DataError
from dimat.experiment.config.rules import broken_rule
from dimat.state import memory_bytes
from dimat.tasks import CLASSIFICATION, Task

_MOST_CLASSES = 10**6
_BYTES = 5  # of a number for each output, while it is made
_KNOWN = {
    "cifar10": "50000,10000,32,32,3,10",
    "cifar100": "50000,10000,32,32,3,100",
    "tiny-imagenet": "100000,10000,64,64,3,200",
}


def assumed(what: str, task: Task = CLASSIFICATION) -> Dataset:
    """Random images of a data set that is known by name, or of given numbers.

    Args:
        what: cifar10, cifar100, tiny-imagenet, or
            TRAIN,TEST,HEIGHT,WIDTH,CHANNELS,CLASSES such as 50000,10000,32,32,3,100.
        task: What is learned of them, with as many outputs as CLASSES.

    Raises:
        ConfigError: If it is none of these, or the task's targets are none of images.
    """
    text = _KNOWN.get(what, what)
    if not re.fullmatch(r"[1-9]\d{0,8}(,[1-9]\d{0,8}){5}", text, re.ASCII):
        rule = f"{', '.join(_KNOWN)}, or TRAIN,TEST,HEIGHT,WIDTH,CHANNELS,CLASSES"
        raise broken_rule("assume", what, rule)
    train, test, *shape, classes = map(int, text.split(","))
    if classes > train:
        raise broken_rule("assume", what, "at least one training image of every class")
    outputs = 0 if task.has_classes else _BYTES * classes
    needed = (train + test) * (math.prod(shape) + outputs)
    if needed > memory_bytes():
        raise broken_rule("assume", what, f"smaller: these images are {needed / 1e9:,.0f} GB")
    if classes > _MOST_CLASSES:
        raise broken_rule("assume", classes, f"<= {_MOST_CLASSES:,}, in CLASSES")
    random = np.random.default_rng(0)

    def images(count: int) -> torch.Tensor:
        return torch.from_numpy(random.integers(0, 256, (count, *shape), dtype=np.uint8))

    targets = [_targets(what, task, count, classes, shape) for count in (train, test)]
    return Dataset(f"as {what}", images(train), targets[0], images(test), targets[1])


def _targets(what: str, task: Task, count: int, classes: int, shape: Sequence[int]) -> torch.Tensor:
    """Targets that a task takes: a class, a number for each output, or a class for each pixel."""
    labels = np.arange(count) % classes
    if task.has_classes:
        return task.targets(labels, "labels")
    height, width, _ = shape
    places = np.arange(height * width).reshape(height, width)
    forms: tuple[Callable[[], NDArray[np.generic]], ...] = (
        lambda: (labels[:, None] == np.arange(classes)).astype(np.uint8),
        lambda: (labels[:, None, None] + places) % classes,
    )
    for form in forms:
        with suppress(DataError):
            found = task.targets(form(), "targets")
            if task.num_outputs(found) == classes:
                return found
    rule = (
        "left out with this task: images have targets that are a class, CLASSES numbers, or one of "
        "CLASSES, two at least, at every pixel; give data"
    )
    raise broken_rule("assume", what, rule)
