"""The protocol of a task: what agents learn, how it is measured, and what targets look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dimat.metric import Metric


class Task(Protocol):
    """What agents learn: a value without state, whose functions do not change their arguments.

    Outputs are what a model gives for a batch, targets what it should have given; both have the
    samples along their first axis.
    """

    @property
    def metrics(self) -> Sequence[Metric]:
        """The metrics, the one that runs are compared by first."""
        ...

    @property
    def has_classes(self) -> bool:
        """Whether a target is the number of one class, and the outputs are a logit for each.

        Then training samples can be dealt out by class, and local losses know the classes
        (:mod:`dimat.losses`).
        """
        ...

    def targets(self, given: NDArray[np.generic], where: str) -> Tensor:
        """The targets of an array, checked, in the type and shape that the other functions take.

        Args:
            given: An array of numbers, samples first.
            where: Name of the array, for messages.

        Raises:
            DataError: If these are no targets of the task, with the rule.
        """
        ...

    def num_outputs(self, targets: Tensor) -> int:
        """The width of a model's output: of classes, labels, tokens or numbers.

        Args:
            targets: All training targets, one at least.
        """
        ...

    def output_shape(self, targets: Tensor, num_outputs: int) -> tuple[int, ...]:
        """The shape of a model's outputs.

        Args:
            targets: Targets of a batch.
            num_outputs: Width of the output.
        """
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch, a differentiable scalar.

        Args:
            outputs: Outputs in float32.
            targets: Their targets.
        """
        ...

    def totals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sums over a batch, of which the metrics are made: those of two batches add up.

        Args:
            outputs: Outputs in float32.
            targets: Their targets; there may be none.

        Returns:
            float64, one axis, as long for every batch.
        """
        ...

    def measure(self, totals: Tensor) -> Mapping[str, float]:
        """The mean loss, as ``loss``, and every metric by its name; NaN of no samples.

        Args:
            totals: Sum of the totals of some batches.
        """
        ...

    def pooled(self, outputs: Sequence[Tensor]) -> Tensor:
        """The outputs of an ensemble, in the form that one model gives them.

        Args:
            outputs: The outputs of each model for the same batch, one model at least.
        """
        ...


@runtime_checkable
class LikelihoodTask(Task, Protocol):
    r"""A task whose outputs are parameters of a probability distribution of the targets.

    Their Fisher information needs no targets: of a prediction z, whose targets y it says to have
    the probabilities p(y | z), it is

    .. math:: I(z) = \mathbb E_{y \sim p(y | z)} \nabla_z \log p(y | z)\,
        \nabla_z \log p(y | z)^\top = S(z) S(z)^\top

    ``merging.combine fisher`` weighs parameters by it.
    """

    def predictions(self, outputs: Tensor) -> Tensor:
        """The outputs as independent predictions, a row each; differentiable.

        Args:
            outputs: Outputs of a batch.

        Returns:
            (rows, size): a row for each sample, place or pixel that a target is predicted of.

        Raises:
            ModelError: If these are no outputs of the task.
        """
        ...

    def information_root(self, predictions: Tensor, directions: Tensor) -> Tensor:
        r"""The products :math:`S(z)\,u`, row by row, linear in u.

        Args:
            predictions: (rows, size), in float64.
            directions: (rows, size) u.
        """
        ...


@runtime_checkable
class LabelTask(Task, Protocol):
    """A task in whose targets labels occur, each at some places or none: of pixels, for example."""

    def label_shares(self, targets: Tensor, num_outputs: int) -> Tensor:
        """The share of every label in every sample's target, by which agents' data may differ.

        Args:
            targets: Targets of some samples.
            num_outputs: Width of the output.

        Returns:
            (samples, labels) float64, >= 0: rows sum to 1, or are 0 where a target has no label.
        """
        ...
