"""The model inside of what PyTorch wraps around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dimat.checkpoints.files import without_prefix
from dimat.state import check_module


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, out of ``DistributedDataParallel``, ``DataParallel``, ``torch.compile``.

    Raises:
        ConfigError: If it is no model.
    """
    check_module(model)
    while True:
        inner: nn.Module | None = None
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        elif type(model).__name__ == "OptimizedModule":  # its class is slow to import
            inner = model._modules.get("_orig_mod")
        if inner is None:
            return model
        model = inner


def unprefixed(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with the names of the model, if it has those of a wrapped one."""
    own = model.state_dict()
    return dict(state) if any(key in own for key in state) else without_prefix(state)
