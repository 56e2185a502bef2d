"""The specification of a comparison: methods, seeds, and a grid of settings."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from dimat.errors import ConfigError
from dimat.experiment.config.access import check_name, flat, point_name, shown, with_setting
from dimat.experiment.config.config import RunConfig
from dimat.experiment.recipe import LATER, recipe

if TYPE_CHECKING:
    from dimat.metric import Metric

ELSEWHERE = {
    "seed": "seeds are given by --seeds",
    "method": "methods are given by --methods",
    "controls": "methods are given by --methods, the first being compared to",
    "task": "tasks have metrics of their own: compare each by itself",
    "out": "a comparison's folder is given by --out",
    "overwrite": "nothing is replaced: give another folder by --out",
}


@dataclass(frozen=True)
class Spec:
    """A comparison: every method, at every grid point, with every seed.

    Args:
        base: The settings that all runs share; its method, controls, seed, out and overwrite do
            not count, and neither do settings of the grid.
        methods: At least one; the others are compared to the first.
        seeds: At least one; each grid point is run with each.
        grid: The values of each setting that varies; the last setting varies fastest.

    Raises:
        ConfigError: If there is nothing to run, a method, seed or value is named twice, or the grid
            has a name that is no setting or a setting that is given elsewhere.
    """

    base: RunConfig
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    grid: Mapping[str, tuple[object, ...]]

    def __post_init__(self) -> None:
        for name in self.grid:
            refuse_elsewhere(name, f"grid.{name}")
            check_name(name, self.grid[name])
        axes = {f"grid.{name}": values for name, values in self.grid.items()}
        for name, values in {"methods": self.methods, "seeds": self.seeds, **axes}.items():
            _check_axis(name, values)

    @property
    def metric(self) -> Metric:
        """The main metric of the task of all runs."""
        from dimat.tasks import TASKS  # imports PyTorch, which help does without

        return TASKS[self.base.task].metrics[0]

    @property
    def num_cells(self) -> int:
        """Number of cells: grid points times seeds."""
        return math.prod(map(len, self.grid.values())) * len(self.seeds)

    @property
    def points(self) -> list[dict[str, object]]:
        """The grid points: a value for each setting of the grid; one empty point without a grid."""
        return [
            dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())
        ]

    def config(self, point: Mapping[str, object], seed: int) -> RunConfig:
        """The settings of one cell: the first method is the main one, the others are controls.

        Args:
            point: A grid point.
            seed: The cell's seed.
        """
        main, *controls = self.methods
        config = replace(self.base, method=main, controls=tuple(controls), seed=seed)
        for name, value in point.items():
            config = with_setting(config, name, value)
        return replace(config, out=None, overwrite=False)

    @property
    def first(self) -> RunConfig:
        """The settings of the first cell, which are recorded as the base."""
        return self.config({name: own[0] for name, own in self.grid.items()}, self.seeds[0])


@dataclass(frozen=True)
class Cell:
    """One run of a comparison, with all methods: a grid point with a seed.

    Args:
        name: The cell's name, such as ``topology.name=ring,seed=0``, and that of its folder.
        point: The cell's grid point.
        seed: The cell's seed.
        config: The cell's settings; ``out`` is null.
    """

    name: str
    point: Mapping[str, object]
    seed: int
    config: RunConfig


def expand(spec: Spec) -> tuple[Cell, ...]:
    """All cells of a comparison: grid points in order, and all seeds of each.

    Args:
        spec: The comparison.
    """
    return tuple(
        Cell(point_name({**point, "seed": seed}), point, seed, spec.config(point, seed))
        for point in spec.points
        for seed in spec.seeds
    )


def canonical(spec: Spec) -> dict[str, object]:
    """All settings that the results depend on, by name, as JSON and YAML have them.

    Args:
        spec: The comparison.
    """
    grid = {f"grid.{name}": [_plain(v) for v in values] for name, values in spec.grid.items()}
    axes = {"methods": list(spec.methods), "seeds": list(spec.seeds)}
    varied = {*spec.grid, *ELSEWHERE} - {"task"}
    base = {name: value for name, value in flat(recipe(spec.first)).items() if name not in varied}
    base = {
        name: value for name, value in base.items() if name not in LATER or value != LATER[name]
    }
    return {**base, **axes, **grid}


def digest(spec: Spec) -> str:
    """SHA-256 of :func:`canonical`: equal if the same runs have the same names.

    Args:
        spec: The comparison.
    """
    return hashlib.sha256(json.dumps(canonical(spec)).encode()).hexdigest()


def difference(ours: Spec, theirs: Spec) -> str | None:
    """The first setting in which two comparisons differ, with both values; None if they agree.

    Args:
        ours: One comparison.
        theirs: The other, called "there" in the message.
    """
    a, b = canonical(ours), canonical(theirs)
    for name in [*a, *(name for name in b if name not in a)]:
        if a.get(name) != b.get(name):
            return f"'{name}' is {_said(a.get(name))}, there {_said(b.get(name))}"
    return None if list(a) == list(b) else "the grid's settings are in another order"


def refuse_elsewhere(name: str, given: str) -> None:
    """Refuse a setting that a comparison sets itself.

    Args:
        name: The setting.
        given: The name that the user gave it, for the message.

    Raises:
        ConfigError: If a comparison sets it; names the option to use instead.
    """
    if name in ELSEWHERE:
        raise ConfigError(f"setting '{given}' is set for each cell: {ELSEWHERE[name]}")


def _check_axis(name: str, values: Sequence[object]) -> None:
    if not values:
        raise ConfigError(f"setting '{name}' has no values, which makes 0 cells: must have one")
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"setting '{name}' has '{shown(value)}' twice: must have it once")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _said(value: object) -> str:
    return ",".join(map(shown, value)) if isinstance(value, list) and value else shown(value)
