"""Samples that are read by index whenever they are needed, in place of a tensor that holds them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.errors import DataError
from dimat.text import brief

if TYPE_CHECKING:
    from dimat.data.dataset import Tell

# Samples of an index, (n,) int64, with the seed that random transforms draw from.
Read = Callable[[Tensor, int], Tensor]
Pair = tuple[NDArray[np.generic], NDArray[np.generic]]
_AT_ONCE_BYTES = 2**24  # of a batch that is only looked at: evaluation, and passes over all samples
_DIGESTED = 64  # samples whose content is in a digest


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """Inputs or targets of samples that are read by index; a part of them is read no earlier.

    Args:
        rows: Reads the samples of an index, as a tensor of those samples.
        index: (n,) int64, the samples of this tensor among all that there are.
        row: (1, ...) one sample, for the shape and the type of all.
        tell: Listener to passes over all samples, as that of a source.
    """

    rows: Read
    index: Tensor
    row: Tensor
    tell: Tell | None = None

    __repr__ = brief

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.index)

    def __getitem__(self, picked: Tensor | NDArray[np.int64] | slice) -> StoredTensor:
        """Some of the samples; nothing is read.

        Args:
            picked: Their places, a mask, or a slice, as a tensor takes them.
        """
        return replace(self, index=self.index[picked])

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor that all samples would be."""
        return torch.Size((len(self.index), *self.row.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """Type of its entries."""
        return self.row.dtype

    def dim(self) -> int:
        """Number of axes, that of the samples included."""
        return self.row.dim()

    def is_floating_point(self) -> bool:
        """Whether entries are floats."""
        return self.row.is_floating_point()

    def element_size(self) -> int:
        """Bytes of an entry."""
        return self.row.element_size()

    @property
    def at_once(self) -> int:
        """Samples of a batch that is only looked at, >= 1: about 16 MiB of them."""
        return max(1, _AT_ONCE_BYTES // max(1, self.row.nbytes))

    def then(self, function: Callable[[Tensor], Tensor]) -> StoredTensor:
        """The tensor of what a function makes of the samples, whenever they are read.

        Args:
            function: Of a batch, each sample on its own.
        """
        rows = self.rows
        return replace(
            self, rows=lambda index, seed: function(rows(index, seed)), row=function(self.row)
        )

    def read(self, picked: Tensor | None = None, seed: int = 0) -> Tensor:
        """Read samples.

        Args:
            picked: Their places here, (n,) int64; None: all.
            seed: Seed of the generators of PyTorch, NumPy and Python, which random transforms draw
                from; their state is that of before when the samples are read.

        Raises:
            DataError: If they cannot be read, or are not like the first one.
        """
        index = self.index if picked is None else self.index[picked.cpu()]
        if not len(index):
            return self.row[:0]
        found = self.rows(index, seed)
        if found.shape[1:] != self.row.shape[1:] or found.dtype != self.row.dtype:
            raise DataError(
                f"samples {index[:3].tolist()}… are {tuple(found.shape[1:])} {found.dtype}, and "
                f"the first is {tuple(self.row.shape[1:])} {self.row.dtype}: all must be alike; a "
                "transform, or a collate_fn that pads to one length, makes them so"
            )
        return found

    def most(self, of: Callable[[Tensor], int]) -> int:
        """The highest number that a function gives for a batch; samples are read for it, once.

        Args:
            of: The function.
        """
        known = self._known
        if of not in known:
            known[of] = max(map(of, self.passed()))
        return known[of]

    @cached_property
    def _known(self) -> dict[Callable[[Tensor], int], int]:
        return {}

    def passed(self) -> Iterator[Tensor]:
        """All samples in their order, in batches."""
        tell = self.tell or (lambda new, total: None)
        tell(0, len(self))
        for start in range(0, len(self), self.at_once):
            found = self[start : start + self.at_once].read()
            yield found
            tell(len(found), len(self))

    @cached_property
    def digested(self) -> bytes:
        """What a digest covers: number, shape and type, which samples, and the content of 64."""
        picked = torch.from_numpy(np.unique(np.linspace(0, len(self) - 1, _DIGESTED, dtype=int)))
        picked = picked[: len(self)]
        seen = [
            self.read(own).cpu().contiguous().numpy().tobytes()
            for own in torch.tensor_split(picked, len(picked))
        ]
        told = f"{tuple(self.shape)} {self.dtype}".encode()
        return b"".join([told, self.index.numpy().tobytes(), *seen])


Rows: TypeAlias = Tensor | StoredTensor


class SampleReader:
    """Reader of samples by index, as inputs and targets.

    Args:
        fetch: Reads the samples of some numbers, as a batch of inputs and one of targets.
        keeps: Whether the last batch is kept, as inputs and then targets are asked for.
    """

    def __init__(self, fetch: Callable[[Sequence[int]], Pair], *, keeps: bool) -> None:
        self._fetch, self._keeps = fetch, keeps
        self._last: tuple[tuple[int, bytes], Pair] | None = None

    def __call__(self, index: Tensor, seed: int) -> Pair:
        """The samples of an index, read in a stream of random numbers of their own."""
        key = seed, index.numpy().tobytes()
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None  # one batch at a time is in memory
        with seeded(seed):
            found = self._fetch(index.tolist())
        if self._keeps:
            self._last = key, found
        return found


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of PyTorch (CPU), NumPy and Python, and restore them afterwards.

    Args:
        seed: The seed, >= 0.
    """
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def read_rows(own: Rows, picked: Tensor, seed: int = 0) -> Tensor:
    """Samples in memory, of those that are there or are read.

    Args:
        own: Inputs or targets.
        picked: Places of the samples, (n,) int64.
        seed: As :meth:`StoredTensor.read` takes it.
    """
    return own.read(picked, seed) if isinstance(own, StoredTensor) else own[picked]


def tensor_of(own: Rows) -> Tensor:
    """All samples in memory, read if they are not there."""
    return own.read() if isinstance(own, StoredTensor) else own


def in_batches(inputs: Rows, targets: Rows, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All samples in their order, in batches; one without samples if there is none.

    Args:
        inputs: Inputs.
        targets: Their targets.
        size: Samples of a batch, >= 1; fewer where samples are large and have to be read.
    """
    size = min([size, *(own.at_once for own in (inputs, targets) if isinstance(own, StoredTensor))])
    for start in range(0, max(1, len(targets)), size):
        part = slice(start, start + size)
        yield tensor_of(inputs[part]), tensor_of(targets[part])


def joined(parts: Sequence[Rows]) -> Rows:
    """The samples of several as one.

    Args:
        parts: Samples of one shape and type.
    """
    there = [own for own in parts if isinstance(own, Tensor)]
    if len(there) == len(parts):
        return torch.cat(there)
    ends = np.cumsum([len(own) for own in parts])

    def rows(index: Tensor, seed: int) -> Tensor:
        whose = np.searchsorted(ends, index.numpy(), side="right")
        found = torch.empty(len(index), *first.shape[1:], dtype=first.dtype, device=first.device)
        for k in np.unique(whose):
            mine = torch.from_numpy(np.flatnonzero(whose == k))
            start = int(ends[k]) - len(parts[k])
            found[mine] = read_rows(parts[k], index[mine] - start, seed)
        return found

    first = next(own.row for own in parts if isinstance(own, StoredTensor))
    return StoredTensor(rows, torch.arange(int(ends[-1])), first)


def content(own: Rows) -> bytes:
    """What a digest covers of samples: of those in memory every byte; of others see StoredTensor.

    Args:
        own: Inputs or targets.
    """
    if isinstance(own, StoredTensor):
        return own.digested
    return own.contiguous().numpy().tobytes()
