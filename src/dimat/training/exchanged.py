"""The entries of a model that agents exchange: all, or those that training changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dimat.compat import writes_of
from dimat.errors import ConfigError
from dimat.state import State, tensors_of
from dimat.symmetry import Symmetry
from dimat.symmetry.constants import digest_of


def trained_keys(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> frozenset[str]:
    """State keys of what training changes: parameters with gradients, buffers that a pass writes.

    Buffers are looked at in one forward pass in training mode; modules that stay in eval mode, as
    frozen BatchNorm does, write none.

    Args:
        model: Not changed.
        args: Inputs of the model, a batch that it can be trained on.
        kwargs: Keyword inputs.

    Raises:
        ConfigError: If no parameter is trained.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    trained = {name for name, own in parameters.items() if own.requires_grad}
    if not trained:
        raise ConfigError(
            "no parameter of the model requires a gradient, and agents are to exchange what is "
            "trained: set requires_grad, or exchange all"
        )
    found = trained | _written(model, args, kwargs)
    return frozenset(found & tensors_of(model.state_dict()).keys())


def _written(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> set[str]:
    """Names of the buffers that a forward pass in training mode writes."""
    modes = {module: module.training for module in model.modules()}
    named = dict(model.named_buffers(remove_duplicate=False))
    copies = {id(own): own.detach().clone() for own in named.values()}
    own = {name: copies[id(value)] for name, value in named.items()}  # shared ones stay shared
    before = {name: (value, value.clone(), writes_of(value)) for name, value in own.items()}
    devices = {x.device for x in model.parameters() if x.device.type != "cpu"}
    try:
        if not model.training:  # else modules in eval mode are meant to be
            model.train()
        with torch.no_grad(), torch.random.fork_rng(devices=sorted(map(str, devices))):
            functional_call(model, own, args, dict(kwargs or {}), tie_weights=False)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return {  # BatchNorm writes uncounted; others may write the value that was there
        name
        for name, (value, old, count) in before.items()
        if own[name] is not value or writes_of(value) != count or not torch.equal(value, old)
    }


def frozen_entries(model: nn.Module, exchanged: Collection[str] | None) -> State:
    """The entries that agents do not exchange; not copied.

    Args:
        model: The model.
        exchanged: State keys that are exchanged; None: all.
    """
    if exchanged is None:
        return {}
    return {k: x.detach() for k, x in tensors_of(model.state_dict()).items() if k not in exchanged}


def frozen_digest(model: nn.Module, exchanged: Collection[str]) -> str:
    """SHA-256 of names, shapes, dtypes and bytes of the entries that agents do not exchange.

    Args:
        model: The model.
        exchanged: State keys that are exchanged.
    """
    return digest_of({k: x.cpu() for k, x in frozen_entries(model, exchanged).items()})


def check_moves(symmetry: Symmetry, frozen: Mapping[str, Tensor]) -> None:
    """Refuse a symmetry given by hand that moves entries which nobody exchanges.

    Args:
        symmetry: The symmetry.
        frozen: The entries that are not exchanged.

    Raises:
        ConfigError: Naming the first group and entry.
    """
    for group in symmetry.groups:
        for key, _ in group.members:
            if key in frozen:
                raise ConfigError(
                    f"'symmetry' moves group '{group.name}', to which '{key}' belongs, and that is "
                    "frozen and not exchanged: leave the group out, or exchange all"
                )
