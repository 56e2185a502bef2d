"""A mean of aligned states that a few of them, being lies, can move only so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from dimat.merging.mix import check_mixable, mix
from dimat.state import State, as_real, is_number, squared_distance

_Order = Callable[[Tensor, Tensor], Tensor]


def robust_mix(
    states: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    parameters: Collection[str],
    rule: Literal["clip", "trimmed"],
    liars: int,
) -> State:
    r"""The mean of the agent's own state and others, of which ``liars`` may be anything.

    With ``clip``, :math:`x_i + \sum_j w_j \min(1, \tau / \lVert x_j - x_i \rVert)\,(x_j - x_i)`,
    where :math:`\tau` is the largest distance but ``liars``. Parameters are clipped together, and
    all other numbers (running statistics) together. With ``trimmed``, the mean of each coordinate
    without its ``liars`` largest and smallest values; all that are left count alike.

    What has weight 0 is left out. If then too few are left to tell lies from states, the agent's
    own state is returned; if its own weight is 0, as of an agent that is new, it has nothing to
    compare with, and takes the weighted average. Integers and booleans are the agent's own.

    Args:
        states: ``n >= 1`` finite states of one structure, in one unit order; the first is the
            agent's own; not changed.
        weights: One weight per state, >= 0, summing to 1 within 1e-6.
        parameters: The state keys that are parameters.
        rule: The rule.
        liars: Number b >= 1 of the other states that may be lies.

    Raises:
        StructureError: If weights or states do not fit.

    References:
        He, Karimireddy, Jaggi, "Byzantine-Robust Decentralized Learning via ClippedGossip", arXiv
        2202.01545, 2022; Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal
        Statistical Rates", ICML 2018.
    """
    check_mixable(states, weights)
    if weights[0] == 0:
        return mix(states, weights)
    own, *others = [state for state, weight in zip(states, weights, strict=True) if weight > 0]
    if len(others) < (2 * liars if rule == "trimmed" else liars + 1):
        return {key: value.clone() for key, value in own.items()}
    if rule == "trimmed":
        return {key: _trimmed([x[key] for x in (own, *others)], liars) for key in own}
    clipped = [dict(other) for other in others]
    numbers = [key for key, value in own.items() if is_number(value)]
    for kind in (True, False):
        keys = [key for key in numbers if (key in parameters) is kind]
        distances = [math.sqrt(squared_distance(own, other, keys)) for other in others]
        radius = sorted(distances)[-1 - liars]
        for other, distance in zip(clipped, distances, strict=True):
            if distance > radius:
                other |= {k: _between(own[k], other[k], radius / distance) for k in keys}
    return mix([own, *clipped], [weight for weight in weights if weight > 0])


def _between(own: Tensor, other: Tensor, share: float) -> Tensor:
    """The point so far on the way from our entry to another."""
    wide = torch.promote_types(own.dtype, torch.float64)  # a difference of lies can be out of range
    return torch.lerp(own.to(wide), other.to(wide), share).to(own.dtype)


def _trimmed(values: Sequence[Tensor], liars: int) -> Tensor:
    first = values[0]
    if not is_number(first) or all(torch.equal(first, value) for value in values[1:]):
        return first.clone()  # a sum of equal numbers would round
    wide = torch.promote_types(first.dtype, torch.float32)
    kept = [as_real(value.to(wide)) for value in values]
    for _ in range(liars):  # for the few that there are faster than sorting, docs/robust.md
        kept = _without_last(kept, torch.minimum, torch.maximum)
        kept = _without_last(kept, torch.maximum, torch.minimum)
    total = kept[0]
    for value in kept[1:]:
        total = total + value
    mean = total / len(kept)
    return (torch.view_as_complex(mean) if first.is_complex() else mean).to(first.dtype)


def _without_last(values: Sequence[Tensor], first: _Order, last: _Order) -> list[Tensor]:
    """The values without that which comes last in each coordinate."""
    left, end = [], values[0]
    for value in values[1:]:
        left.append(first(end, value))
        end = last(end, value)
    return left
