"""Mixing of batches, so that each is a mixture of all samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dimat.checkpoints.batches import ModelCall
from dimat.compat import tree_flatten, tree_unflatten


def mixed(calls: Sequence[ModelCall]) -> tuple[ModelCall, ...]:
    """Batches of the same samples in random order, all of the first one's size but the last.

    Batches that are sorted, by class or by domain, are not like all samples: their statistics are
    others, and a layer that is fitted on the first batches gets the first classes alone.

    Args:
        calls: Batches of one kind.

    Returns:
        The mixed batches; those given, where they cannot be taken apart, since some argument does
        not have one entry a sample.
    """
    if len(calls) < 2:
        return tuple(calls)
    size, total = calls[0].samples, sum(call.samples for call in calls)
    leaves = [tree_flatten((call.args, dict(call.kwargs))) for call in calls]
    joined = [
        _joined(values, [call.samples for call in calls])
        for values in zip(*(own for own, _ in leaves), strict=True)
    ]
    if any(own is None for own in joined):
        return tuple(calls)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    return tuple(
        ModelCall(
            *tree_unflatten([x[part.to(x.device)] for x in joined if x is not None], leaves[0][1])
        )
        for part in torch.split(order, size)
    )


def _joined(values: Sequence[object], samples: Sequence[int]) -> Tensor | None:
    """One argument of all batches joined; None if it does not have one entry a sample."""
    tensors = [x for x in values if isinstance(x, Tensor) and x.dim()]
    if len(tensors) < len(values) or [len(x) for x in tensors] != list(samples):
        return None
    if len(tensors) > 1 and all(torch.equal(x, tensors[0]) for x in tensors[1:]):
        return None  # one for all batches: a mask, say
    return torch.cat(tensors)
