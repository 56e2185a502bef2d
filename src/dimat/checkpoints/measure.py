"""Measuring of a checkpoint's statistics by its owner: ``dimat.statistics``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from dimat.checkpoints.formats.files import StateLike
from dimat.checkpoints.formats.statistics_file import (
    Statistics,
    kind_of,
    model_digest,
    state_digest,
)
from dimat.checkpoints.forward import Forward
from dimat.checkpoints.parents import Parents
from dimat.checkpoints.reading import IMAGES
from dimat.errors import ConfigError, chosen, in_words, quoted
from dimat.merging import COMBINERS, Combiner, StatisticsCombiner

BUDGET = 5.0  # as merging.statistics_budget


def statistics(
    model: nn.Module,
    state: StateLike,
    batches: Iterable[Any],
    *,
    combine: str | Combiner = "gram",
    budget: float = BUDGET,
    forward: Forward | None = None,
    images: int = IMAGES,
    key: str | None = None,
) -> Statistics:
    """The statistics of a checkpoint on its owner's data, for a merge elsewhere without any data.

    Args:
        model: As :func:`dimat.merge` takes it.
        state: The checkpoint, in any form that :func:`dimat.merge` takes.
        batches: The owner's inputs, as :func:`dimat.merge` takes them; labels are left out.
        combine: The combiner that merges: a name (``dimat.merging.COMBINERS``) or an object.
        budget: Numbers of statistics for each number of the weights, at most, about; > 0. Of the
            largest layers less is sent, where all would be more; owners must choose alike.
        forward: As :func:`dimat.merge` takes it.
        images: The largest number of samples of the batches that are used.
        key: As :func:`dimat.merge` takes it.

    Returns:
        What ``dimat.merge(..., statistics=[…])`` takes; its ``save`` writes a file.

    Raises:
        ConfigError: If the combiner takes no statistics, or an argument is of a kind that has no
            meaning here.
        DataError: If there are no batches, or they hold nothing to measure.
        ModelError: If a batch does not fit the model, or the model cannot be captured.
        StructureError: If the state does not fit, or an input of a layer is not finite.
    """
    combiner = with_statistics(combine)
    if (
        isinstance(budget, bool)
        or not isinstance(budget, (int, float))
        or not 0 < budget < math.inf
    ):
        raise ConfigError(f"'budget' is {quoted(budget)}: must be a finite number > 0")
    with in_words("measuring statistics"):
        parents = Parents.of(model, [state], batches, forward=forward, images=images, key=key)
        return measured(parents, combiner, budget)


def measured(parents: Parents, combiner: StatisticsCombiner, budget: float) -> Statistics:
    """The statistics of the first of some parents on their inputs.

    Args:
        parents: The parents.
        combiner: The combiner that they are for.
        budget: As :func:`statistics` takes it.
    """
    values = parents.measure(combiner, budget)
    example = parents.example
    plain = all(isinstance(x, Tensor) and x.is_floating_point() for x in example.args)
    return Statistics(
        values={key: value.cpu() for key, value in values.items()},
        combiner=kind_of(combiner),
        budget=float(budget),
        samples=parents.calls.samples,
        inputs=tuple(tuple(x.shape) for x in example.args) if plain else (),
        model=model_digest(parents.analysis.trace, parents.originals[0]),
        state=state_digest(parents.originals[0]),
    )


def with_statistics(combine: str | Combiner) -> StatisticsCombiner:
    """A combiner by its name, or a caller's own, if it takes statistics.

    Args:
        combine: As :func:`dimat.merge` takes it.

    Raises:
        ConfigError: If it does not.
    """
    combiner = chosen("combine", combine, COMBINERS, ["combine", "needs_batches"])
    if isinstance(combiner, StatisticsCombiner):
        return combiner
    known = [name for name, own in COMBINERS.items() if isinstance(own, StatisticsCombiner)]
    raise ConfigError(
        f"'combine' is {quoted(combine)}, which takes no statistics: those that do are "
        f"{', '.join(known)}"
    )
