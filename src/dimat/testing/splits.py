"""What every split of the training data keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dimat.data.partition import SPLITS, Indices, Partition, as_partition
from dimat.errors import DataError
from dimat.testing.laws import keeps, those_there

_CLASSES, _SAMPLES, _AGENTS = 5, 400, (1, 2, 3, 7)
Deal = Callable[[int], Partition]


def check_split(split: str | Callable[..., Any]) -> None:
    """Check that a split of the training data keeps the laws that dimat's splits keep.

    It deals out 400 samples of 5 classes of unequal size, to 1, 2, 3 and 7 agents.

    Args:
        split: As it is registered: a function of labels, agents, alpha and random; or its name.

    Raises:
        AssertionError: Naming the law that is broken.
        ConfigError: If it cannot be registered.
    """
    function = SPLITS[split] if isinstance(split, str) else SPLITS.prepared("mine", split)
    name = split if isinstance(split, str) else getattr(split, "__name__", "mine")
    shares = np.arange(_CLASSES, 0, -1) / (_CLASSES * (_CLASSES + 1) / 2)
    labels = np.random.default_rng(0).choice(_CLASSES, _SAMPLES, p=shares).astype(np.int64)

    def deal(agents: int) -> Partition:
        random = np.random.default_rng(agents)
        return as_partition(function(labels, agents, 1.0, random), name, agents, len(labels))

    sizes = those_there(deal, _AGENTS, DataError, "it gives a Partition for")
    for agents in sizes:
        keeps(LAWS, deal, agents, labels)


def no_sample_is_dealt_twice(deal: Deal, agents: int, labels: Indices) -> None:
    """No sample is dealt out twice: nobody is validated on what another trains on."""
    for parts in (deal(agents).pretrain, deal(agents).rounds):
        dealt = np.concatenate(parts)
        assert len(np.unique(dealt)) == len(dealt)


def it_is_the_same_with_the_same_numbers(deal: Deal, agents: int, labels: Indices) -> None:
    """The same labels and random numbers give the same parts: every process deals for itself."""
    first, second = deal(agents), deal(agents)
    for a, b in ((first.pretrain, second.pretrain), (first.rounds, second.rounds)):
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one, other)


def labels_stay(deal: Deal, agents: int, labels: Indices) -> None:
    """The labels are not changed."""
    before = labels.copy()
    deal(agents)
    np.testing.assert_array_equal(labels, before)


LAWS: tuple[Callable[[Deal, int, Indices], None], ...] = (
    no_sample_is_dealt_twice,
    it_is_the_same_with_the_same_numbers,
    labels_stay,
)
