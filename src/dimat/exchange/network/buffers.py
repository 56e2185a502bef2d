"""Memory for messages, used again once nobody looks at what was received into it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ROUND = 1 << 12  # sizes are rounded up to whole pages


class Pool:
    """Lends flat buffers. A buffer is free again when the last tensor that shares it is gone.

    Fresh memory costs a page fault every 4 KiB, a third of the time of an exchange of 100 MB.

    Args:
        keep: How many free buffers are kept, >= 0.
    """

    def __init__(self, keep: int = 8) -> None:
        self._keep = keep
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.RLock()  # a finalizer may run while the lock is held

    def take(self, size: int) -> Tensor:
        """A buffer of ``size`` bytes, uint8, with anything in it."""
        whole = self._fitting(size)
        lent = whole[:size]
        # The tensor, and every view of it, holds ``lent`` until the last of them is gone.
        weakref.finalize(lent, self._give_back, whole).atexit = False
        return torch.from_numpy(lent)

    def _fitting(self, size: int) -> NDArray[np.uint8]:
        with self._lock:
            # Out of a finalizer's sight: one may run here, in this thread, and add to the list.
            free, self._free = self._free, []
            fitting = [k for k, own in enumerate(free) if size <= own.size <= 2 * size + _ROUND]
            k = min(fitting, key=lambda k: free[k].size, default=None)
            whole = None if k is None else free.pop(k)
            self._free[:0] = free
        if whole is None:
            return np.empty(-(-max(size, 1) // _ROUND) * _ROUND, np.uint8)
        return whole

    def _give_back(self, whole: NDArray[np.uint8]) -> None:
        with self._lock:
            self._free.append(whole)
            del self._free[: -self._keep or None]

    def sizes(self) -> Sequence[int]:
        """The sizes of the buffers that are free, in bytes."""
        with self._lock:
            return [own.size for own in self._free]
