"""The model inside of what PyTorch wraps around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dimat.checkpoints.files import without_prefix
from dimat.compat import compiled_from
from dimat.state import check_module


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, out of ``DistributedDataParallel``, ``DataParallel``, ``torch.compile``.

    Raises:
        ConfigError: If it is no model.
    """
    check_module(model)
    while True:
        inner = compiled_from(model)
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def unprefixed(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with the names of the model, if it has those of a wrapped one."""
    own = model.state_dict()
    return dict(state) if any(key in own for key in state) else without_prefix(state)
