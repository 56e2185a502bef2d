"""The protocol of a combiner, which makes one state of several that are aligned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from dimat.merging.mix import mix
from dimat.state import State
from dimat.symmetry import Analysis


class Combiner(Protocol):
    """A way of combining states, stateless and deterministic, that changes no state in place."""

    @property
    def needs_batches(self) -> bool:
        """Whether the combiner needs inputs; if not, ``batches`` is not read."""
        ...

    def combine(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        batches: Sequence[Any],
    ) -> State:
        """The combined state, of the same keys, shapes and dtypes.

        Args:
            analysis: Analysis of the model.
            states: ``n >= 1`` states in one unit order; the first is the agent's own.
            weights: One weight per state, >= 0, summing to 1.
            batches: Inputs, each a tensor or a tuple of the model's arguments.
        """
        ...


@dataclass(frozen=True)
class Average:
    r"""The weighted average :math:`\sum_j \pi_{ij} P_{ij}\theta_j`, the paper's.

    *Assumes* that aligned units are nearly alike. *Breaks when* they are not: every layer's output
    is then a little off and too small, and the errors pile up, most of all in narrow networks.
    """

    needs_batches: bool = False

    def combine(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        batches: Sequence[Any],
    ) -> State:
        """The weighted average of the states."""
        return mix(states, weights)
