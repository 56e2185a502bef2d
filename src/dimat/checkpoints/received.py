"""Statistics that owners of checkpoints have sent, on their way into a merge."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from dimat.checkpoints.formats.statistics_file import (
    Statistics,
    kind_of,
    model_digest,
    state_digest,
)
from dimat.checkpoints.parents import Parents
from dimat.errors import ConfigError, StructureError, quoted
from dimat.graph.trace import flatten_inputs
from dimat.matching import Matching
from dimat.merging import Combiner, StatisticsCombiner
from dimat.state import State, check_same_structure
from dimat.text import counted

StatisticsLike = Statistics | str | os.PathLike[str]


def read_statistics(
    given: Iterable[StatisticsLike] | None, combiner: Combiner, count: int
) -> dict[str, Statistics]:
    """Statistics of all states, by a name for messages; the files among them are read.

    Args:
        given: As :func:`dimat.merge` takes them.
        combiner: The combiner of the merge.
        count: Number of states.

    Returns:
        One for each state, in order; none if none are given.

    Raises:
        ConfigError: If they are of a kind that has no meaning here.
        StructureError: If a file cannot be read, there are not as many as states, or they were
            measured for another combiner.
    """
    if given is None:
        return {}
    alone = (str, os.PathLike, Mapping, Statistics)
    if isinstance(given, alone) or not isinstance(given, Iterable):
        rule = "a list of statistics or files, one for each state"
        raise ConfigError(f"'statistics' is {quoted(given)}: must be {rule}")
    listed = list(given)
    if len(listed) != count:
        raise StructureError(
            f"{len(listed)} statistics for {counted(count, 'state')}: give one each, in the same "
            "order, or none, and batches to measure them on"
        )
    found = {_named(number, own): _read(number, own) for number, own in enumerate(listed)}
    for who, own in found.items():
        if own.combiner != kind_of(combiner):
            raise StructureError(
                f"{who} are for {quoted(own.combiner)}, and the merge is by {kind_of(combiner)!r}: "
                "measure them with the same 'combine'"
            )
    return found


def fitting_values(
    parents: Parents, combiner: Combiner, given: Mapping[str, Statistics]
) -> list[State]:
    """The values of statistics, checked like any message, on the model's device.

    Args:
        parents: The parents, in the same order.
        combiner: The combiner of the merge.
        given: The statistics of every parent, by a name for messages.

    Returns:
        Those of every parent; none if none are given.

    Raises:
        StructureError: If they are of another model or state, of other forms than each other's, or
            no inputs can have them.
    """
    if not given or not isinstance(combiner, StatisticsCombiner):
        return []
    states = [state_digest(own) for own in parents.originals]
    model = model_digest(parents.analysis.trace, parents.originals[0])
    for number, (who, own) in enumerate(given.items()):
        if own.model != model:
            raise StructureError(f"{who} were measured on another model than that of the merge")
        if own.state != states[number]:
            raise StructureError(f"{who} were not measured on state {number}{_whose(own, states)}")
    _check_alike(given)
    like = _example_values(parents, combiner, {own.budget for own in given.values()})
    found = []
    for who, own in given.items():
        expected = like[own.budget]
        values = {key: _cast(value, expected.get(key)) for key, value in own.values.items()}
        check_same_structure(expected, values, who)
        combiner.check(values, who)
        found.append(values)
    return found


def moved_values(
    parents: Parents,
    combiner: Combiner,
    values: Sequence[State],
    matchings: Sequence[Matching],
) -> list[State]:
    """The statistics of parents whose units were permuted.

    Args:
        parents: The parents.
        combiner: The combiner of the merge.
        values: The statistics of each; none if none are given.
        matchings: The matching of each.
    """
    if not values or not isinstance(combiner, StatisticsCombiner):
        return []
    triples = zip(parents.states, values, matchings, strict=True)
    return [combiner.moved(parents.analysis, s, v, m.permutation) for s, v, m in triples]


def _example_values(
    parents: Parents, combiner: StatisticsCombiner, budgets: Iterable[float]
) -> dict[float, State]:
    """Statistics of the right structure, by budget: those of the first parent on an example."""
    batch = tuple(flatten_inputs(parents.example.args, parents.example.kwargs))
    own = parents.states[0]
    return {x: combiner.statistics(parents.analysis, own, [batch], x) for x in budgets}


def _check_alike(given: Mapping[str, Statistics]) -> None:
    """Refuse statistics of one model whose owners chose budgets that give them other forms."""
    (first, ours), *others = given.items()
    for who, theirs in others:
        for key in (own for own in ours.values if own in theirs.values):  # in the model's order
            shapes = [tuple(own.values[key].shape) for own in (ours, theirs)]
            if shapes[0] != shapes[1]:
                raise StructureError(
                    f"{who} do not fit {first}: '{key}' has shape {shapes[1]} there and "
                    f"{shapes[0]} here, by budgets of {theirs.budget:g} and {ours.budget:g}: "
                    "measure both with one budget"
                )


def _cast(value: Tensor, expected: Tensor | None) -> Tensor:
    """A tensor in the precision and on the device expected, if it is one of that shape."""
    if expected is None:
        return value
    fits = value.is_floating_point() and value.shape == expected.shape
    return value.to(expected.device, expected.dtype if fits else value.dtype)


def _read(number: int, given: StatisticsLike) -> Statistics:
    if isinstance(given, Statistics):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Statistics.load(given)
    raise ConfigError(
        f"statistics {number} is {quoted(given)}: must be what dimat.statistics gave, or the path "
        "of a file of it"
    )


def _named(number: int, given: StatisticsLike) -> str:
    """Name of statistics for messages: their number, and the path if they are a file."""
    path = f" ({os.fspath(given)})" if isinstance(given, (str, os.PathLike)) else ""
    return f"statistics {number}{path}"


def _whose(own: Statistics, states: Sequence[str]) -> str:
    """The way out for statistics of another state."""
    if own.state in states:
        return f", but on state {states.index(own.state)}: give them in the order of the states"
    return ": measure them on the very checkpoint that is merged"
