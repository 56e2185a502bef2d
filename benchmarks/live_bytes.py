"""The bytes of tensors that are alive at once, counted and not read from the system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """The peak of bytes of storages that operators made while this mode was on.

    Seen between operators: what one of them needs for itself and frees again is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._alive = 0, dict[int, tuple[StorageWeakRef, int]]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if _stored(x)}
        result = func(*args, **(kwargs or {}))
        self._alive = {k: own for k, own in self._alive.items() if not own[0].expired()}
        for x in tree_leaves(result):
            if _stored(x) and (key := x.untyped_storage()._cdata) not in known | set(self._alive):
                storage = x.untyped_storage()
                self._alive[key] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def _stored(x: object) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided


def peak_bytes(way: Callable[[], object]) -> int:
    """The most bytes of tensors that a call holds at once, beside those that were there.

    Args:
        way: The call.
    """
    with LiveBytes() as live:
        way()
    return live.peak
