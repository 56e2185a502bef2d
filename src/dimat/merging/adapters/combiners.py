"""Combiners of states with low-rank adapters: factors as adapters, all other entries averaged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dimat.errors import ConfigError
from dimat.merging.adapters.combine import Way, aligned, product
from dimat.merging.adapters.factors import find_factors
from dimat.merging.mix import mix
from dimat.state import State
from dimat.symmetry import Analysis


@dataclass(frozen=True)
class AdapterCombiner:
    """A combiner of states in which pairs of entries are the factors of low-rank adapters.

    Without such pairs it is the average. No graph of the model is looked at.
    """

    needs_batches: bool = False

    @property
    def way(self) -> Way:
        """The way in which the adapters of one module are combined."""
        raise NotImplementedError

    def combine(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        batches: Sequence[Any],
    ) -> State:
        """The combined state."""
        return self.combine_states(states, weights)

    def combine_states(
        self, states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
    ) -> State:
        """The combined state."""
        first, way = states[0], self.way
        merged = mix(states, weights)
        for keys in find_factors(first):
            merged |= keys.written(way([keys.read(own) for own in states], weights), first)
        return merged

    def check_keys(self, keys: Collection[str], name: str) -> None:
        """Refuse states without adapters.

        Args:
            keys: State keys.
            name: Name of the combiner, for the message.

        Raises:
            ConfigError: If no two entries are factors.
        """
        if not find_factors(keys):
            raise ConfigError(
                f"combiner '{name}' is for low-rank adapters, and no entry of the model is named "
                "as their factors are ('….lora_A.weight' and '….lora_B.weight'): use average"
            )


@dataclass(frozen=True)
class AlignedAdapters(AdapterCombiner):
    """Factors averaged after a rotation onto the own ones (``lora-aligned``).

    See :func:`dimat.merging.adapters.aligned`.

    *Assumes* that agents adapt to similar things: their products have directions in common.
    *Breaks when* they have not: the average of factors is then not that of products.
    """

    @property
    def way(self) -> Way:
        """Averages of rotated factors."""
        return aligned


@dataclass(frozen=True)
class ProductAdapters(AdapterCombiner):
    """The average of the products, factored again in the own frame (``lora-product``).

    See :func:`dimat.merging.adapters.product`.

    *Assumes* that the average is of nearly the adapters' rank. *Breaks when* many agents adapt in
    directions of their own: those beyond the rank are cut off at every merge.
    """

    @property
    def way(self) -> Way:
        """Truncated averages of products."""
        return product
