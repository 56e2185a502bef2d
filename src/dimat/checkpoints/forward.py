"""A model under another forward than its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

# (model, *args, **kwargs) -> outputs, where the model's own forward is not what should be matched.
Forward = Callable[..., Any]


class Bound(nn.Module):
    """A model under another forward, with the same parameters and buffers under the same names.

    Args:
        model: Any module.
        forward: The forward, called as ``forward(model, *args, **kwargs)``.
    """

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self._modules, self._parameters = model._modules, model._parameters
        self._buffers = model._buffers
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.training = model.training
        self.__dict__["_bound"] = (model, forward)  # no submodule: that would rename its entries

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The other forward, bound to the model."""
        model, forward = self.__dict__["_bound"]
        return forward(model, *args, **kwargs)


def bound(model: nn.Module, forward: Forward | None) -> nn.Module:
    """A model under a forward.

    Args:
        model: Any module.
        forward: The forward; None: that of the model, which is then returned itself.
    """
    return model if forward is None else Bound(model, forward)
