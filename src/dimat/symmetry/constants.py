"""Constants: buffers of one value in all states, such as fixed scales, which hold units."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dimat.graph.trace import Trace
from dimat.state import as_real, is_number
from dimat.symmetry.labels.units import ANY, FIXED, Label, Labels, Units, along


def unwritten(
    traces: Sequence[Trace], entries: Mapping[str, Tensor], frozen: Collection[str] = ()
) -> dict[str, Tensor]:
    """The entries that are buffers of real or complex numbers which no forward pass writes.

    Args:
        traces: The graphs of one model.
        entries: Values by state key.
        frozen: Keys of entries that nobody changes, parameters among them: they count, too.

    Returns:
        Those of them that some graph reads, on the CPU.
    """
    read = {key for t in traces for key in t.states.values()}
    written = {key for t in traces for _, key in t.mutated} | traces[0].parameters
    written -= set(frozen)
    return {
        key: value.detach().cpu()
        for key, value in entries.items()
        if key in read - written and is_number(value)
    }


def digest_of(entries: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, shapes, dtypes and values of some entries."""
    text = hashlib.sha256()
    for key, value in sorted(entries.items()):
        text.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        text.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return text.hexdigest()


def constant_labels(units: Units, value: Tensor) -> Labels:
    """Labels of a constant: indices along an axis may change places where their slices are equal.

    So an axis along which the constant does not vary is ANY, and one whose slices all differ is
    FIXED; else the units of equal slices belong to one place.

    Args:
        units: The store of units.
        value: The constant.
    """
    if not value.numel():
        return (FIXED,) * value.dim()
    labels: list[Label] = []
    for axis, n in enumerate(value.shape):
        slices = as_real(value).movedim(axis, 0).reshape(n, -1)
        first, kind = torch.unique(slices, dim=0, return_inverse=True) if n > 1 else (slices, None)
        if kind is None or len(first) == n:
            labels.append(FIXED)
        elif len(first) == 1:
            labels.append(ANY)
        else:
            shape = along(axis, value.dim(), n)
            own = units.fresh(shape)
            units.belong(own, units.places(len(first))[kind.numpy()].reshape(shape))
            labels.append(own)
    return tuple(labels)


def redrawn_alike(value: Tensor, drawn: Tensor) -> Tensor:
    """A redrawn constant: entries that are equal in ``value`` are equal again.

    Args:
        value: The constant.
        drawn: Random numbers of its shape.
    """
    if not value.numel():
        return drawn
    flat = as_real(value).reshape(value.numel(), -1).numpy()
    _, first, kind = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    picked = torch.from_numpy(first[kind.ravel()])
    return drawn.reshape(-1)[picked].reshape(drawn.shape)
