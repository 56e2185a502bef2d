"""Matching by ``weights``: parameters are compared, and no data is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from dimat.matching.coordinate_ascent import CoordinateAscent
from dimat.matching.fit import Matching, fit, matching_of
from dimat.matching.parameter_slices import ParameterSlices, parameter_slices
from dimat.matching.protocol import Problem


@dataclass(frozen=True)
class Weights:
    r"""Assign units so that the parameters agree best, by coordinate ascent over the groups.

    .. math:: P = \arg\max_P \sum_k \langle \theta^{(k)}, (P\theta')^{(k)} \rangle

    over all parameters k; biases and norms' scales count too, buffers do not. With all other groups
    held, each group is a linear assignment problem over

    .. math:: S_{uv} = \sum_{\text{axes of } u} \langle \theta_u, \theta'_v \rangle

    for any axis that the symmetry moves: flattened images, gates, heads and what is inside them.
    Where a group stands on two axes of one parameter (a recurrent matrix), the problem is quadratic
    and is made linear at the current order. A step is only taken if it gains.

    The start is one pass from the inputs on in which a group is compared only by parameters whose
    other groups are matched already; so a permuted copy is undone exactly, up to units that no
    weight tells apart.

    *Assumes* that both networks solve the task with similar weights. *Breaks when* they were
    trained briefly, or with weights of very different scale: activations tell units apart better.

    References:
        Ainsworth et al., "Git Re-Basin: Merging Models modulo Permutation Symmetries", ICLR 2023.
    """

    needs_batches: bool = False

    def match(self, problem: Problem) -> list[Matching]:
        """Every state to the first; similarities are cosines of the units' weights."""
        slices = parameter_slices(problem.analysis)
        first, *others = problem.states
        return [
            matching_of(slices.symmetry.identity()),
            *(self._pair(slices, first, other) for other in others),
        ]

    def _pair(
        self, slices: ParameterSlices, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
    ) -> Matching:
        ascent = CoordinateAscent(slices, ours, theirs)
        ascent.settle()
        for _ in ascent.sweeps():
            pass
        still = slices.symmetry.identity()
        return replace(
            fit(slices.symmetry, ascent.cosines(), still), permutation=ascent.permutation
        )
