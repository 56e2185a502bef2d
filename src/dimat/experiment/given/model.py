"""Models that a caller has as objects: what builds one, or a network to start from."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from dimat.errors import ConfigError, quoted
from dimat.experiment.config.places import GIVEN

Build = Callable[..., object]


def builder_of(model: Any) -> Build:
    """What builds the model of an agent.

    Args:
        model: A function or class, called with those of the known facts that it asks for; or a
            network, of which every agent begins with a copy.

    Raises:
        ConfigError: If it is something else.
    """
    if isinstance(model, nn.Module):
        return lambda: copy.deepcopy(model)
    if not callable(model):
        raise ConfigError(
            f"setting 'model' is {quoted(model)}: must be a name, a function or class that builds "
            "a torch.nn.Module, or a module that every agent begins with"
        )
    build: Build = model
    return build


def name_of(model: Any) -> str:
    """The setting that stands for a model: a name that leads to it, else one that says it is given.

    >>> import torch
    >>> name_of(torch.nn.Linear), name_of(lambda: None), name_of(torch.nn.Linear(2, 3))
    ('torch.nn.modules.linear:Linear', 'given:<lambda>', 'given:Linear')
    """
    own = getattr(model, "__qualname__", type(model).__name__)
    home = getattr(model, "__module__", None)
    if not isinstance(model, nn.Module) and home not in (None, "__main__") and own.isidentifier():
        try:
            if getattr(importlib.import_module(home), own, None) is model:
                return f"{home}:{own}"
        except ImportError:
            pass
    return f"{GIVEN}:{own.rpartition('.')[2]}"
