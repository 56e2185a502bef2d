"""Filling of silent units with what other parents have there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dimat.checkpoints.widths.padding import Padding
from dimat.state import State, is_number


def filled(
    states: Sequence[State], paddings: Sequence[Padding | None], weights: Sequence[float]
) -> list[State]:
    r"""Aligned states whose silent units read what the same units of the others read.

    .. math:: \theta_j = \frac{\sum_{k \in K} w_k \theta_k}{\sum_{k \in K} w_k}

    in free entries of state j, where K are the states that have the entry. What reads a silent unit
    stays zero, so each state computes what it did. An average of the filled states is one over
    those that have a unit, in all that the unit reads; what reads the unit is averaged over all.

    Args:
        states: Aligned states; not changed.
        paddings: The padding of each, aligned as it is; None for one that lacks nothing.
        weights: Weight of each, >= 0.
    """
    found = []
    for state, padding in zip(states, paddings, strict=True):
        own = dict(state)
        for key, free in ({} if padding is None else padding.free).items():
            if is_number(own[key]) and bool(free.any()):
                mean, has = _mean(key, states, paddings, weights)
                own[key] = torch.where(free.to(mean.device) & has, mean, own[key])
        found.append(own)
    return found


def _mean(
    key: str,
    states: Sequence[Mapping[str, Tensor]],
    paddings: Sequence[Padding | None],
    weights: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """The mean of an entry over the states that have it, and where there are any."""
    total = torch.zeros_like(states[0][key])
    share = torch.zeros_like(total, dtype=torch.float64)
    for state, padding, weight in zip(states, paddings, weights, strict=True):
        value = state[key]
        common = 1.0 if padding is None else padding.common[key].to(value.device)
        total = total + weight * common * value
        share = share + weight * common
    return torch.where(share > 0, total / share.clamp_min(1e-300), 0).to(total.dtype), share > 0
