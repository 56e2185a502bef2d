"""What a comparison plans: runs that are not there yet are as much part of it as those that are."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from dimat.tools.records.run import Run
from dimat.tools.records.settings import key_of

# Method, seed and the values of the grid's settings.
_Key = tuple[str, int, tuple[str, ...]]


def planned_runs(spec: Mapping[str, object], found: Sequence[Run]) -> tuple[Run, ...]:
    """The runs of a comparison in the order of its plan, then any it does not plan.

    Args:
        spec: What ``comparison.yaml`` holds; methods, seeds and grid are read.
        found: The runs that are there.

    Returns:
        Those found, and one that has not begun for every other that is planned.
    """
    names = [*_grid(spec)]
    there: dict[_Key, list[Run]] = {}
    for run in found:
        there.setdefault(_key(run, names), []).append(run)
    ordered = []
    for run in _plan(spec, found):
        ordered += there.pop(_key(run, names), [run])
    return (*ordered, *itertools.chain.from_iterable(there.values()))


def _plan(spec: Mapping[str, object], found: Sequence[Run]) -> list[Run]:
    """Every run of the comparison, as one that has not begun."""
    if not found:
        return []
    grid = _grid(spec)
    points = itertools.product(*grid.values())
    cells = itertools.product(points, _list(spec.get("seeds")), _list(spec.get("methods")))
    empty = Run(found[0].source, "", "", 0, found[0].settings)
    return [
        dataclasses.replace(
            empty,
            method=str(method),
            seed=seed,
            settings={**empty.settings, **dict(zip(grid, point, strict=True))},
        )
        for point, seed, method in cells
        if isinstance(seed, int)
    ]


def _key(run: Run, names: Sequence[str]) -> _Key:
    return run.method, run.seed, tuple(key_of(run.settings.get(name)) for name in names)


def _grid(spec: Mapping[str, object]) -> dict[str, list[object]]:
    grid = spec.get("grid")
    return {n: _list(v) for n, v in grid.items()} if isinstance(grid, dict) else {}


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []
