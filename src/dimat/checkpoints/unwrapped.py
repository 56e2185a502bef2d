"""The model inside of PyTorch's wrappers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dimat.checkpoints.files import without_prefix
from dimat.compat import compiled_from
from dimat.state import check_module


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``.

    Args:
        model: A model, in any number of wrappers.

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
    """A state under the names of a model, if it has those of the wrapped model.

    Args:
        model: The unwrapped model.
        state: Not changed.
    """
    own = model.state_dict()
    return dict(state) if any(key in own for key in state) else without_prefix(state)
