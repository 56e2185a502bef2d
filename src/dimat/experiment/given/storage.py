"""Where the samples of a caller stay: in memory, or where they are, to be read by index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from dimat.data.dataset import Dataset, Tell
from dimat.data.stored import Pair, Rows, SampleReader, StoredTensor, seeded
from dimat.errors import DataError
from dimat.experiment.given.by_index import Arrays, ByIndex, by_index, of_arrays, passed
from dimat.experiment.given.samples import PARTS, is_array
from dimat.tasks import Task

Storage: TypeAlias = Literal["auto", "memory", "source"]
_COMPARED = 32  # samples that are read more than once
MOST_BYTES = 2**30  # of the samples that are read into memory without being told to
_WAYS_OUT = (
    "give the map-style data set itself, or a DataLoader over one, in its order or shuffled "
    "without replacement; or leave data.storage at auto"
)


def leaf_by_index(given: Any, name: str) -> ByIndex | None:
    """Samples by index, of a data set, a loader, or arrays that are mapped from a file.

    Args:
        given: What a caller gives, of one part.
        name: Its name, for messages.
    """
    if isinstance(given, np.memmap):
        return of_arrays(given, None, name)
    if isinstance(given, tuple) and len(given) == 2 and all(map(is_array, given)):
        return of_arrays(*given, name) if isinstance(given[0], np.memmap) else None
    return by_index(given, name)


def _leaves(given: Any, name: str = "data") -> Iterator[tuple[Any, str]]:
    """The parts of what a caller gives: train and test, those of each agent; with their names."""
    if isinstance(given, Mapping) and PARTS[0] in given:
        parts = tuple(given[part] for part in PARTS if part in given)
        given = parts if len(parts) == len(PARTS) else parts[0]
    if isinstance(given, list) and name == "data":
        for i, own in enumerate(given):
            yield from _leaves(own, f"data[{i}]")
    elif isinstance(given, tuple) and len(given) == 2 and not all(map(is_array, given)):
        yield from ((own, f"{name}[{i}]") for i, own in enumerate(given))
    elif not isinstance(given, Dataset):
        yield given, name


def stays_stored(given: Any, storage: Storage) -> bool:
    """Whether samples stay where they are, by the setting, or by the size of all together.

    Args:
        given: What a caller gives.
        storage: The setting.

    Raises:
        DataError: If they are to be read by index, and there are none that can be.
    """
    if storage == "memory":
        return False
    if storage == "source":
        for own, name in _leaves(given):
            held = is_array(own) or (isinstance(own, tuple) and all(map(is_array, own)))
            if not held and leaf_by_index(own, name) is None:
                raise DataError(
                    f"setting 'data.storage' is 'source', and of '{name}', a {type(own).__name__}, "
                    f"samples cannot be had by their number: {_WAYS_OUT}"
                )
        return True
    leaves = [*_leaves(given)]
    return sum(_size(*own) for own in leaves) > MOST_BYTES or any(_is_drawn(*own) for own in leaves)


def _is_drawn(given: Any, name: str) -> bool:
    """Whether samples differ each time they are read, as those of a random transform do."""
    own = leaf_by_index(given, name)
    if own is None or isinstance(own.samples, (TensorDataset, Arrays)):
        return False
    numbers = np.unique(np.linspace(0, own.length - 1, _COMPARED, dtype=int)).tolist()
    found = []
    try:
        for seed in (0, 1, 0):
            with seeded(seed):
                found.append(own.fetch(numbers))
    except Exception:  # whatever is wrong with it is said when it is read
        return False
    # One that draws from a generator of its own differs under one seed too: read once, it is the
    # same in every run, and by its number it would be another each time.
    return _equal(found[0], found[2]) and not _equal(found[0], found[1])


def _equal(one: Pair, other: Pair) -> bool:
    pairs = zip(one, other, strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc") for a, b in pairs)


def _size(given: Any, name: str) -> int:
    """Bytes of samples that can be read by index, by the first one; 0 of all else."""
    own = leaf_by_index(given, name)
    if own is None:
        return 0
    try:
        x, y = own.first()
    except Exception:  # whatever is wrong with it is said when it is read
        return 0
    return own.length * (x.nbytes + y.nbytes)


def stored(
    own: ByIndex,
    made: Callable[[NDArray[np.generic], str], Tensor],
    where: str,
    task: Task,
    tell: Tell,
) -> tuple[StoredTensor, Rows]:
    """Inputs that are read by index, and their targets: in memory, unless these are large, too.

    Args:
        own: The samples.
        made: Makes a tensor of an array of inputs, checked.
        where: Name of the inputs, for messages.
        task: The task; targets that are classes are always in memory.
        tell: Listener to passes over all samples.
    """
    x, y = own.first()
    wide = not task.has_classes and task.targets(y, own.name).nbytes * own.length > MOST_BYTES
    reader, index = SampleReader(own.fetch, keeps=wide), torch.arange(own.length)
    inputs = StoredTensor(lambda i, s: made(reader(i, s)[0], where), index, made(x, where), tell)
    if not wide:
        return inputs, torch.from_numpy(np.ascontiguousarray(_targets(own, inputs.at_once, tell)))
    return inputs, StoredTensor(
        lambda i, s: torch.from_numpy(np.ascontiguousarray(reader(i, s)[1])),
        index,
        torch.from_numpy(np.ascontiguousarray(y)),
        tell,
    )


def _targets(own: ByIndex, at_once: int, tell: Tell) -> NDArray[np.generic]:
    """The targets of all samples: of the data set itself, or else of one pass over it."""
    known = own.targets()
    if known is not None:
        return np.array(known)  # of the caller's it may be mapped from a file, or change
    tell(0, own.length)
    found = []
    for _, y in passed(own, at_once):
        found.append(y.copy())  # a view would keep the inputs
        tell(len(y), own.length)
    return np.concatenate(found)
