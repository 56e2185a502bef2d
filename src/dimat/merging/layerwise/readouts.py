"""Readouts: layers that read units and give outputs, whose places need no alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dimat.graph.interpreter import PartialInterpreter
from dimat.merging.layerwise.layer import layer_of
from dimat.merging.layerwise.sites import Site, sites
from dimat.state import widened
from dimat.symmetry import Analysis


def readouts(analysis: Analysis, state: Mapping[str, Tensor]) -> list[Site]:
    """The layers whose inputs are units of the symmetry and whose outputs are not.

    Args:
        analysis: Of the model.
        state: A state of the model.
    """
    moved = {member for group in analysis.symmetry.groups for member in group.members}
    found = []
    for site in sites(analysis.trace, sums=False):
        if site.norm is not None or site.weight is None or site.weight not in state:
            continue  # what a state lacks is frozen, and alike for all
        outputs = int(layer_of(site.op, state[site.weight]).transposed)  # 0 or 1: the axis
        if (site.weight, 1 - outputs) in moved and (site.weight, outputs) not in moved:
            found.append(site)
    return found


def readout_distance(
    analysis: Analysis,
    state: Mapping[str, Tensor],
    others: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    batches: Sequence[Any],
) -> float | None:
    r"""How differently other networks would read a network's own units.

    .. math:: \sum_j w_j \sum_x \lVert A_j z(x) - A\, z(x) \rVert^2

    for the readouts A of the network, Aⱼ of the others, and the units z that the network itself
    has on some inputs.

    Args:
        analysis: Of the model.
        state: The network's state.
        others: The others' states.
        weights: Of each of the others, >= 0.
        batches: Inputs.

    Returns:
        The distance, >= 0; None if the model has no readout.
    """
    found = readouts(analysis, state)
    if not found:
        return None
    rest = analysis.trace.frozen
    own, *wide = (widened({**rest, **x}) for x in (state, *others))
    total = 0.0
    for x in batches:
        run = PartialInterpreter(analysis.trace, own, x)
        for site in found:
            run.advance(site.op, inclusive=False)
            mine = run.call(site.op)
            for weight, other in zip(weights, wide, strict=True):
                run.state = other  # its readout, on the network's own units
                total += weight * float((run.call(site.op) - mine).abs().square().sum())
            run.state = own
    return total
