"""Samples of a caller's data set by their number: how they are read, and their targets alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
)

from dimat.data.stored import Pair, seeded
from dimat.errors import DataError
from dimat.experiment.given.samples import (
    TARGETS,
    array_of,
    in_order,
    is_array,
    of_many_shapes,
    pair_of,
    without_format,
)

_COMPARED = 8  # samples whose targets are compared with what the data set says of them


@dataclass(frozen=True)
class ByIndex:
    """A data set whose samples are read by their number, and collated.

    Args:
        samples: The data set.
        collate: Makes a batch of samples.
        length: Number of samples, from the first one on.
        name: Name of the data set, for messages.
    """

    samples: Any
    collate: Callable[[Any], Any]
    length: int
    name: str

    def fetch(self, numbers: Sequence[int]) -> Pair:
        """Inputs and targets of some samples.

        Args:
            numbers: Their numbers, one at least.

        Raises:
            DataError: If they do not stack, or are no samples.
        """
        several = getattr(self.samples, "__getitems__", None)
        found = several([*numbers]) if several else [self.samples[i] for i in numbers]
        try:
            batch = self.collate(found)
        except (RuntimeError, TypeError, ValueError) as error:
            raise of_many_shapes(self.name, error) from error
        x, y = map(array_of, pair_of(batch, f"a sample of '{self.name}'"))
        if len(x) != len(numbers) or len(y) != len(numbers):
            raise DataError(
                f"{len(numbers)} samples of '{self.name}' are collated to {len(x)} inputs and "
                f"{len(y)} targets: must be one for each"
            )
        return x, y

    def first(self) -> Pair:
        """Inputs and targets of the first sample."""
        with seeded(0):
            return self.fetch([0])

    def targets(self) -> NDArray[np.generic] | None:
        """The targets of all samples, where the data set has them without their inputs.

        Those of a column, or of an attribute ``targets`` or ``labels``; only if a few samples have
        them, too: a transform may change targets.
        """
        known = known_targets(self.samples)
        if known is None or len(known) < self.length:
            return None
        known = known[: self.length]
        for number in np.unique(np.linspace(0, self.length - 1, _COMPARED, dtype=int)).tolist():
            with seeded(0):
                _, own = self.fetch([number])
            if own.shape[1:] != known.shape[1:] or not np.array_equal(own[0], known[number]):
                return None
        return known


def by_index(given: Any, name: str) -> ByIndex | None:
    """A data set by index; None of what is not map-style.

    Args:
        given: A data set, or a DataLoader over one.
        name: Name for messages.
    """
    if isinstance(given, DataLoader):
        return _of_loader(given, name)
    if isinstance(given, (str, Mapping, IterableDataset, Tensor, np.ndarray)):
        return None
    if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")) or not len(given):
        return None
    return ByIndex(without_format(given), default_collate, len(given), name)


def _of_loader(loader: DataLoader[Any], name: str) -> ByIndex | None:
    """The data set of a loader whose order is that of the data set, or random."""
    ordered = in_order(loader)
    if ordered is None:
        return None
    length = len(cast(Any, ordered.dataset))
    if ordered.drop_last:
        length = len(ordered) * (ordered.batch_size or 1)
    return ByIndex(ordered.dataset, ordered.collate_fn, length, name) if length else None


class Arrays:
    """Samples of arrays, such as those that are mapped from files.

    Args:
        x: Inputs, samples first.
        y: Targets; None: the inputs.
    """

    def __init__(self, x: Any, y: Any = None) -> None:
        self.x, self.y = x, x if y is None else y

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.x)

    def __getitems__(self, numbers: Sequence[int]) -> tuple[Any, Any]:
        """Inputs and targets of some samples, in memory."""
        return np.array(self.x[numbers]), np.array(self.y[numbers])


def of_arrays(x: Any, y: Any, name: str) -> ByIndex | None:
    """Arrays by index; None if they have not one target for each input."""
    own = Arrays(x, y)
    if not len(own) or len(own.x) != len(own.y):
        return None
    return ByIndex(own, lambda batch: batch, len(own), name)


def known_targets(samples: Any) -> NDArray[np.generic] | None:
    """The targets of a data set without its inputs, as far as it says; None: it does not."""
    if isinstance(samples, Subset):
        known = known_targets(samples.dataset)
        return None if known is None else known[np.asarray(samples.indices, dtype=np.int64)]
    if isinstance(samples, ConcatDataset):
        parts = [known_targets(own) for own in samples.datasets]
        there = [own for own in parts if own is not None]
        return np.concatenate(there) if len(there) == len(parts) else None
    if isinstance(samples, TensorDataset):
        return array_of(samples.tensors[-1])
    if isinstance(samples, Arrays):
        return np.asarray(samples.y)
    if hasattr(samples, "select_columns") and hasattr(samples, "column_names"):  # Hugging Face
        return _column(samples)
    for name in ("targets", "labels"):
        own = getattr(samples, name, None)
        if is_array(own) or isinstance(own, (list, tuple)):
            return _numbers(own)
    return None


def _column(samples: Any) -> NDArray[np.generic] | None:
    there = [name for name in TARGETS if name in samples.column_names]
    if len(there) != 1:
        return None
    return _numbers(samples.select_columns(there).with_format("numpy")[:][there[0]])


def _numbers(own: Any) -> NDArray[np.generic] | None:
    """An array of numbers; None if it is none."""
    try:
        found = array_of(own)
    except (RuntimeError, TypeError, ValueError):
        return None
    return found if found.ndim and found.dtype.kind in "biuf" else None


def passed(own: ByIndex, at_once: int) -> Iterator[Pair]:
    """All samples in their order, in batches.

    Args:
        own: The data set.
        at_once: Samples of a batch.
    """
    for start in range(0, own.length, at_once):
        with seeded(0):
            yield own.fetch(range(start, min(start + at_once, own.length)))
