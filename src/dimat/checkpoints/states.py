"""States fitted to a model: completed, checked, and in at least float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dimat.errors import StructureError, quoted
from dimat.graph.trace import tied_keys
from dimat.state import State, check_finite, check_same_structure, is_number, tensors_of


def working_copy(model: nn.Module) -> nn.Module:
    """A copy of a model in eval mode, in at least float32 or complex64; ties stay.

    Args:
        model: Not changed.
    """
    twin = copy.deepcopy(model).eval()
    for value in (*twin.parameters(), *twin.buffers()):
        value.data = _wide(value.data)
    return twin


def completed(model: nn.Module, state: Mapping[str, Any], who: str) -> State:
    """A state with the entries that checkpoints leave out, and without those that are no tensors.

    Checkpoints leave out the second name of a tied tensor (safetensors keeps one), and BatchNorm's
    batch counters (unknown before PyTorch 0.4.1), which count nothing that matters here.

    Args:
        model: The model of the state.
        state: Entries under the model's names; not changed.
        who: Name of the state, for messages: ``"state 1"``.

    Raises:
        StructureError: If a tensor of the model is something else in the state.
    """
    whole = tensors_of(state)
    for key in tensors_of(model.state_dict()):
        if key in state and key not in whole:
            raise StructureError(
                f"{who} does not fit: '{key}' is {quoted(state[key])}, expected a torch.Tensor"
            )
    for alias, first in tied_keys(model).items():
        for missing, present in ((alias, first), (first, alias)):
            if missing not in whole and present in whole:
                whole[missing] = whole[present]
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked") and key not in whole:
            whole[key] = torch.zeros_like(value)
    return whole


def validate_state(model: nn.Module, state: Mapping[str, Tensor], who: str) -> State:
    """A state in the dtypes and on the devices of a model, checked against it.

    Args:
        model: A :func:`working_copy`, which the state must fit.
        state: A :func:`completed` state; not changed.
        who: Name of the state, for messages: ``"state 1"``.

    Raises:
        StructureError: If the state lacks an entry, has one too many or of another shape, holds
            NaN or infinity, or if entries that are one tensor in the model differ.
    """
    expected = tensors_of(model.state_dict())
    own = {key: _cast(value, expected.get(key)) for key, value in state.items()}
    check_same_structure(expected, own, who)
    check_finite(state, who)
    for alias, first in tied_keys(model).items():
        if not torch.equal(own[alias], own[first]):
            raise StructureError(
                f"{who} does not fit: '{alias}' and '{first}' are one tensor in the model, but "
                "differ here"
            )
    return {key: own[key] for key in expected}


def as_in(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> State:
    """A copy of a state in the dtypes and on the devices of another.

    Args:
        state: Not changed.
        like: The other state.
    """
    return {
        key: value.to(device=like[key].device, dtype=like[key].dtype, copy=True)
        for key, value in state.items()
    }


def _wide(value: Tensor) -> Tensor:
    if not is_number(value):
        return value
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _cast(value: Tensor, expected: Tensor | None) -> Tensor:
    """A tensor of numbers in the expected precision; an integer in place of one stays as it is.

    That is a mistake, which the check of dtypes then tells.
    """
    if expected is None:
        return value.detach()
    if is_number(value) and value.is_complex() == expected.is_complex() and is_number(expected):
        return value.detach().to(expected.device, expected.dtype)
    return value.detach().to(expected.device)
