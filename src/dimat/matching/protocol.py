"""The protocol of a matcher, which puts the units of several states in the order of the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from dimat.matching.fit import Matching
from dimat.symmetry import Analysis
from dimat.text import brief


@dataclass(frozen=True)
class Problem:
    """States of one model whose units are to be matched.

    Args:
        analysis: Analysis of the model: its graph and its symmetry.
        states: ``n >= 1`` states of its keys and shapes; not changed.
        weights: Weight of each state in the merge, summing to 1.
        batches: Inputs on which activations may be measured, each a tensor or a tuple of the
            model's arguments; empty if there are none.
    """

    analysis: Analysis
    states: Sequence[Mapping[str, Tensor]]
    weights: Sequence[float]
    batches: Sequence[Any] = ()

    __repr__ = brief


class Matcher(Protocol):
    """A way of matching states, stateless and deterministic."""

    @property
    def needs_batches(self) -> bool:
        """Whether the matcher measures activations; if not, ``batches`` is not read."""
        ...

    def match(self, problem: Problem) -> list[Matching]:
        """For every state the permutation into the first one's unit order.

        A state that is a permuted copy of the first is brought back
        exactly, up to units that nothing tells apart (dead ones, duplicates).

        Args:
            problem: The states.

        Returns:
            One matching per state; the first is the identity.
        """
        ...
