"""Whether an agent is still in the order of its neighbors, seen from weights alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dimat.matching.assignment import Floats
from dimat.matching.coordinate_ascent import CoordinateAscent
from dimat.matching.parameter_slices import ParameterSlices
from dimat.symmetry import Analysis


def drift(analysis: Analysis, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    r"""Share of units that are more like another unit's place than their own.

    .. math:: \frac{1}{N}\sum_u [\max_v C_{uv} > C_{uu}], \quad
        C_{uv} = \cos(\theta_u, \theta'_v)

    where θ_u are all weights of unit u, those of its inputs and outputs among them, with all other
    units held where they are. No model runs: for a layer it is one product of C x C x (weights a
    unit), as much as a forward pass over C inputs (C places, in a convolution). Measured by
    ``benchmarks/gauge.py --drift``, in docs/gauge.md.

    Args:
        analysis: Of the model.
        ours: A state.
        theirs: Another, such as the mean of the neighbors' states.

    Returns:
        In [0, 1]: 0 where every unit stays; near 1 where one of both is in another order, however
        alike they are otherwise.
    """
    cosines = CoordinateAscent(ParameterSlices(analysis), ours, theirs).cosines()
    units = sum(len(own) for own in cosines.values())
    return sum(_leaving(own) for own in cosines.values()) / max(units, 1)


def _leaving(cosines: Floats) -> int:
    """Rows in which another column is better than the diagonal, by more than rounding."""
    return int((cosines.max(1) > cosines.diagonal() + 1e-6).sum())
