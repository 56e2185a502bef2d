"""The protocol of a combiner, which makes one state of several that are aligned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from dimat.merging.mix import mix
from dimat.state import State
from dimat.symmetry import Analysis, Permutation
from dimat.tasks import Task


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


@runtime_checkable
class TaskCombiner(Combiner, Protocol):
    """A combiner that looks at outputs, which mean something else in every task."""

    def for_task(self, task: Task) -> Combiner:
        """The combiner of networks that have learned a task.

        Args:
            task: The task.

        Raises:
            ConfigError: If it knows no way with the task.
        """
        ...


@runtime_checkable
class StateCombiner(Combiner, Protocol):
    """A combiner that looks at states alone: it needs no graph of the model, and takes parts."""

    def combine_states(
        self, states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
    ) -> State:
        """The combined state, as of :meth:`Combiner.combine`.

        Args:
            states: ``n >= 1`` states in one unit order; the first is the agent's own.
            weights: One weight per state, >= 0, summing to 1.
        """
        ...


def calibrates(combiner: Combiner) -> bool:
    """Whether running statistics in a combiner's result are those of the merged model already.

    A combiner that looks at inputs is taken to see to it, unless its attribute ``calibrates`` says
    otherwise.

    Args:
        combiner: The combiner.
    """
    return bool(getattr(combiner, "calibrates", combiner.needs_batches))


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

    def combine_states(
        self, states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
    ) -> State:
        """The weighted average of the states."""
        return mix(states, weights)


@runtime_checkable
class StatisticsCombiner(Combiner, Protocol):
    """A combiner that weighs every state by statistics of what its own agent has seen.

    Agents send the statistics along with their states, so no agent runs another's network.
    """

    def statistics(
        self,
        analysis: Analysis,
        state: Mapping[str, Tensor],
        batches: Sequence[Any],
        budget: float,
    ) -> State:
        """The statistics of a state on some inputs, as they travel.

        Names, shapes and dtypes are those of the model and the budget, whatever the inputs.

        Args:
            analysis: Analysis of the model.
            state: The state.
            batches: Inputs, each a tensor or a tuple of the model's arguments.
            budget: Numbers of statistics for each number of the weights, at most, about.
        """
        ...

    def moved(
        self,
        analysis: Analysis,
        state: Mapping[str, Tensor],
        statistics: Mapping[str, Tensor],
        permutation: Permutation,
    ) -> State:
        """The statistics of a state whose units were permuted.

        Args:
            analysis: Analysis of the model.
            state: A state of the model, for its shapes.
            statistics: Those of the state before.
            permutation: The permutation.
        """
        ...

    def check(self, statistics: Mapping[str, Tensor], who: str) -> None:
        """Refuse statistics that no inputs can have.

        Args:
            statistics: Statistics of the right structure.
            who: Whose they are, for the message.

        Raises:
            StructureError: If so.
        """
        ...

    def fit(
        self,
        analysis: Analysis,
        states: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        statistics: Sequence[Mapping[str, Tensor]],
    ) -> State:
        """The combined state.

        Args:
            analysis: Analysis of the model.
            states: ``n >= 1`` states in one unit order; the first is the agent's own.
            weights: One weight per state, >= 0, summing to 1.
            statistics: Those of each state, in the same order.
        """
        ...
