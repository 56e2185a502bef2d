"""Checked values from the JSON objects of a run folder; an error names the place and the rule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from dimat.errors import RecordError
from dimat.metric import Metric
from dimat.tools.records.curve import Line
from dimat.tools.records.files import Placed
from dimat.tools.records.run import Diagnosis, Graph, Matrix, Recall, Shards

_COSTS = [f.name for f in dataclasses.fields(Line)[4:]]  # after round, agent, phase and score
_NUMBERS = ("consensus_before", "consensus_after", "contraction", "barrier")
_GAPS = ("spectral_gap", "permuted_gap")
_GROUPS = ("units_moved", "similarity", "margin", "cycle_error")


def metric_of(placed: Placed) -> Metric:
    """The main metric of a ``task.json``.

    Args:
        placed: The file's object with its place.

    Raises:
        RecordError: If it describes none.
    """
    where, found = placed
    first: object = next(iter(_list(where, "metrics", found)), None)
    if not isinstance(first, dict) or not isinstance(first.get("name"), str):
        raise _wrong(where, "metrics", first, "a list of metrics with names")
    higher, percent = (first.get(key) is True for key in ("higher_is_better", "percent"))
    return Metric(str(first["name"]), higher_is_better=higher, percent=percent)


def line_of(placed: Placed, metric: Metric) -> Line:
    """A line of ``metrics.jsonl``; missing values are None.

    Args:
        placed: The line's object with its place.
        metric: The metric that is the line's score.

    Raises:
        RecordError: If round, agent or phase are missing, or a value is not a number.
    """
    where, found = placed
    number, agent, phase = _place(placed)
    return Line(
        number,
        agent,
        phase,
        _number(where, f"test_{metric.name}", found.get(f"test_{metric.name}")),
        **{name: _number(where, name, found.get(name)) for name in _COSTS},
    )


def recall_of(placed: Placed) -> Recall:
    """A line of ``classes.jsonl``; nulls are None.

    Args:
        placed: The line's object with its place.

    Raises:
        RecordError: If round, agent, phase or recall are missing, or a value is not a number.
    """
    where, found = placed
    values = _list(where, "recall", found)
    return Recall(*_place(placed), tuple(_number(where, "recall", own) for own in values))


def recalls_of(lines: Sequence[Placed]) -> tuple[Recall, ...]:
    """The lines of a ``classes.jsonl``, by round, phase and agent; the last of equal ones counts.

    Args:
        lines: Its lines with their places.

    Raises:
        RecordError: If a line is broken, or has not as many classes as the first.
    """
    found = {}
    for placed in lines:
        own = recall_of(placed)
        found[own.round, own.phase, own.agent] = own
        if len(own.values) != len(next(iter(found.values())).values):
            raise RecordError(f"{placed[0]}: 'recall' has not as many classes as the first line")
    return tuple(found[key] for key in sorted(found))  # merged comes before trained


def confusion_of(placed: Placed) -> dict[str, Matrix]:
    """The counts of a ``confusion.json`` by phase.

    Args:
        placed: The file's object with its place.

    Raises:
        RecordError: If a phase has no square of numbers.
    """
    where, found = placed
    phases = {x: _matrix(where, x, found[x]) for x in ("merged", "trained") if x in found}
    for name, counts in phases.items():
        if any(len(row) != len(counts) for row in counts):
            raise RecordError(f"{where}: '{name}' is not square")
    return phases


def diagnosis_of(placed: Placed) -> Diagnosis:
    """A line of ``diagnostics.jsonl``: numbers, and numbers by group; nulls are left out.

    Args:
        placed: The line's object with its place.

    Raises:
        RecordError: If the round is missing, or a value has the wrong type.
    """
    where, found = placed
    tables = {name: found[name] for name in _GROUPS if found.get(name) is not None}
    return Diagnosis(
        _whole(where, "round", found.get("round")),
        _numbers(where, "", {name: found.get(name) for name in (*_NUMBERS, *_GAPS)}),
        {name: _numbers(where, name, table) for name, table in tables.items()},
    )


def graph_of(placed: Placed) -> Graph:
    """The graph of a ``topology.json``.

    Args:
        placed: The file's object with its place.

    Raises:
        RecordError: If the object does not describe a graph.
    """
    where, found = placed
    pi = _matrix(where, "pi", found.get("pi"))
    if any(len(row) != len(pi) for row in pi):
        raise RecordError(f"{where}: 'pi' is not square")
    edges = [(int(i), int(j)) for i, j in _pairs(where, found.get("edges", []))]
    if any(not 0 <= agent < len(pi) for edge in edges for agent in edge):
        raise RecordError(f"{where}: 'edges' name an agent that 'pi' has no row of")
    return Graph(
        str(found.get("name", "")),
        bool(found.get("directed", False)),
        tuple(edges),
        pi,
        _number(where, "spectral_gap", found.get("spectral_gap")),
        tuple(_matrix(where, "sequence", x) for x in _list(where, "sequence", found)),
    )


def shards_of(placed: Placed) -> Shards:
    """The shards of a ``shards.json``, whose classes are a number or a list of names.

    Args:
        placed: The file's object with its place.

    Raises:
        RecordError: If the object does not hold counts of images.
    """
    where, found = placed
    classes = found.get("classes")
    names = range(_whole(where, "classes", classes)) if not isinstance(classes, list) else classes
    pretrain, rounds = (_matrix(where, x, found.get(x) or []) for x in ("pretrain", "rounds"))
    if any(len(row) != len(names) for row in (*pretrain, *rounds)):
        raise RecordError(f"{where}: a row of counts is not as long as there are classes")
    return Shards(tuple(str(name) for name in names), pretrain, rounds)


def _place(placed: Placed) -> tuple[int, int, str]:
    """Round, agent and phase of a line."""
    where, found = placed
    phase = found.get("phase")
    if phase not in ("trained", "merged"):
        raise _wrong(where, "phase", phase, "'trained' or 'merged'")
    number, agent = (_whole(where, name, found.get(name)) for name in ("round", "agent"))
    return number, agent, str(phase)


def _wrong(where: str, name: str, value: object, rule: str) -> RecordError:
    shown = "missing" if value is None else repr(value)[:60]
    return RecordError(f"{where}: '{name}' is {shown}: must be {rule}")


def _number(where: str, name: str, value: object) -> float | None:
    """A value that must be a number or null; None if it is null or not finite."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, name, value, "a number or null")
    return float(value) if math.isfinite(value) else None


def _numbers(where: str, group: str, table: object) -> dict[str, float]:
    if not isinstance(table, dict):
        raise _wrong(where, group, table, "a number for every name")
    found = {name: _number(where, name, value) for name, value in table.items()}
    return {name: value for name, value in found.items() if value is not None}


def _whole(where: str, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(where, name, value, "a whole number >= 0")
    return value


def _list(where: str, name: str, found: Mapping[str, object]) -> Sequence[object]:
    value = found.get(name) or []
    if not isinstance(value, list):
        raise _wrong(where, name, value, "a list")
    return value


def _matrix(where: str, name: str, value: object) -> Matrix:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise _wrong(where, name, value, "a list of lists of numbers")
    return tuple(tuple(_number(where, name, x) or 0.0 for x in row) for row in value)


def _pairs(where: str, value: object) -> Matrix:
    pairs = _matrix(where, "edges", value)
    if any(len(pair) != 2 for pair in pairs):
        raise _wrong(where, "edges", value, "a list of pairs of agents")
    return pairs
