"""The weighted average of aligned states, at the heart of every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dimat.errors import StructureError
from dimat.state import State, check_same_structure, is_number


def mix(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> State:
    r"""The weighted average :math:`\sum_j w_j \theta_j`.

    Real and complex entries are summed in at least float32 or complex64 and returned in their own
    dtype. Integers and booleans have no average: they are those of the first state, the agent's.

    Args:
        states: ``n >= 1`` states of one structure, in one unit order; not changed.
        weights: One weight per state, >= 0, summing to 1 within 1e-6.

    Raises:
        StructureError: If weights or states do not fit.
    """
    check_mixable(states, weights)
    return {key: _average([s[key] for s in states], weights) for key in states[0]}


def check_mixable(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> None:
    """Refuse states and weights that have no weighted average.

    Raises:
        StructureError: If weights or states do not fit.
    """
    if len(states) != len(weights) or not states:
        raise StructureError(f"{len(states)} states, {len(weights)} weights: give one weight each")
    if any(w < 0 for w in weights) or not abs(sum(weights) - 1.0) <= 1e-6:
        raise StructureError(
            f"weights {[round(w, 6) for w in weights]} sum to {sum(weights):.6f}: they must be "
            ">= 0 and sum to 1"
        )
    for j, state in enumerate(states[1:], start=1):
        check_same_structure(states[0], state, f"state {j}")


def _average(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    first = values[0]
    if not is_number(first) or all(torch.equal(first, value) for value in values[1:]):
        return first.clone()  # a sum of equal numbers would round
    wide = torch.promote_types(first.dtype, torch.float32)
    total = first.to(wide) * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.add_(value.to(wide), alpha=weight)
    return total.to(first.dtype)
