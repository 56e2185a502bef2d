"""Reading a comparison from a YAML file and the overrides of the command line.

The file holds settings, as ``dimat run --config`` reads them, and may hold a group ``compare``:

    compare:
      methods: [dimat, wa, local]
      seeds: 0..4
      grid:
        topology.name: [ring, full]

The ``comparison.yaml`` of a comparison folder is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dimat.errors import ConfigError, did_you_mean
from dimat.experiment.config.access import check_name, typed, with_setting
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.messages import is_group, setting_types, unknown_setting
from dimat.experiment.config.parse import bare_parser, config_of, read_yaml
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.spelling import spelled, spelled_tree
from dimat.plain_yaml import load_yaml
from dimat.tools.compare.spec import Spec, refuse_elsewhere

_PARTS = ("methods", "seeds", "grid")
_SEEDS = "such as 0..4, or 0,2,5, or one number"
_MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Overrides:
    """The overrides of the command line, as text.

    Args:
        methods: Names of methods, with commas between; as in the file if None.
        seeds: Seeds such as ``0..4``; as in the file if None.
        grid: Values, with commas between, of each setting that varies.
        settings: The value of each setting that all runs share.
    """

    methods: str | None = None
    seeds: str | None = None
    grid: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


def read_spec(path: Path, overrides: Overrides | None = None) -> Spec:
    """The comparison of a YAML file.

    Args:
        path: The YAML file.
        overrides: Settings in place of those in the file; none if None.

    Returns:
        The comparison. Methods that are not given are the method and the controls of the file,
        seeds that are not given its one seed.

    Raises:
        ConfigError: For the first setting that is wrong; names the file if it is in there.
    """
    overrides = overrides or Overrides()
    try:
        base, given = _read(path)
        grid = _grid(given.get("grid", {}))
        methods = _names(given.get("methods", [base.method, *_others(base)]))
        seeds = parse_seeds(given.get("seeds", base.seed))
    except ConfigError as error:
        raise ConfigError(f"config file '{path}': {error}") from None
    methods = methods if overrides.methods is None else _names(overrides.methods)
    seeds = seeds if overrides.seeds is None else parse_seeds(overrides.seeds)
    grid |= _grid(overrides.grid)
    for name, text in overrides.settings.items():
        refuse_elsewhere(name, name)
        check_name(name, text)
        if name in grid:
            raise ConfigError(f"setting '{name}' varies: give its values by --grid.{name}")
        base = with_setting(base, name, typed(name, text))
    return Spec(base, methods, seeds, grid)


def read_out(path: Path) -> Path:
    """The default folder of a comparison: ``runs/compare-STEM``.

    Args:
        path: The YAML file; for a ``comparison.yaml`` the result is the folder that holds it.
    """
    own = path.name == "comparison.yaml"
    return path.parent if own else Path("runs", f"compare-{path.stem}")


def parse_seeds(given: object) -> tuple[int, ...]:
    """Seeds from ``0..4`` (both ends included), ``0,2,5``, a number, or a list of these.

    Args:
        given: The seeds as text or as read from YAML.

    Raises:
        ConfigError: If ``given`` is none of these.

    >>> parse_seeds("0..2,7"), parse_seeds([3, 5]), parse_seeds(4)
    ((0, 1, 2, 7), (3, 5), (4,))
    """
    parts = given if isinstance(given, list) else str(given).split(",")
    found: list[int] = []
    for part in parts:
        match = re.fullmatch(r"(\d{1,19})(?:\.\.(\d{1,19}))?", str(part).strip(), re.ASCII)
        if match is None or isinstance(part, bool):
            raise broken_rule("seeds", given, _SEEDS)
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + _MOST_SEEDS:
            raise broken_rule("seeds", given, f"{_SEEDS}, from the lower to the higher")
        found += range(first, last + 1)
    return tuple(found)


def _read(path: Path) -> tuple[RunConfig, dict[str, object]]:
    """The settings of a file, and its group ``compare``."""
    content = read_yaml(path)
    if {"base", "digest"} <= content.keys():
        group: object = {part: content.get(part) for part in _PARTS}
        content = content["base"] if isinstance(content["base"], dict) else {}
    else:
        group = content.pop("compare", {})
    if not isinstance(group, dict):
        raise broken_rule("compare", group, f"set by its parts: {', '.join(_PARTS)}")
    for name in group:
        if name not in _PARTS:
            raise ConfigError(
                f"unknown setting 'compare.{name}': {did_you_mean(str(name), _PARTS)}"
            )
    return _config(content), {str(name): value for name, value in group.items()}


def _config(given: Mapping[str, object]) -> RunConfig:
    content = spelled_tree(given, setting_types())
    for name in _leaves(content):
        if name not in setting_types() and not is_group(name):
            raise unknown_setting(name, setting_types())
    return config_of(bare_parser().parse_object(dict(content)))


def _leaves(content: Mapping[str, object], prefix: str = "") -> list[str]:
    """The dotted names of all values in nested groups."""
    names: list[str] = []
    for name, value in content.items():
        full = f"{prefix}{name}"
        names += _leaves(value, f"{full}.") if isinstance(value, dict) else [full]
    return names


def _others(config: RunConfig) -> list[str]:
    return [name for name in config.controls if name != config.method]


def _names(given: object) -> tuple[str, ...]:
    """Names of methods, from a list or from text with commas."""
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise broken_rule("methods", given, "names of methods, such as dimat,wa,local")
    return tuple(part.strip() for part in parts if part.strip())


def _grid(given: object) -> dict[str, tuple[object, ...]]:
    """The typed values of every setting that varies, by dotted name."""
    if not isinstance(given, Mapping):
        raise broken_rule("grid", given, "settings with their values, such as agents: [5, 10]")
    grid: dict[str, tuple[object, ...]] = {}
    for word, values in given.items():
        name = str(word) if isinstance(values, Mapping) else spelled(str(word), setting_types())
        refuse_elsewhere(name, f"grid.{word}")
        grid[name] = tuple(typed(name, value) for value in _values(f"grid.{word}", values))
    return grid


def _values(name: str, given: object) -> Sequence[object]:
    """The values of a setting, from one value, text with commas, or a YAML list."""
    if isinstance(given, list):
        return given
    if not isinstance(given, str):
        return [given]
    if given.startswith("["):
        try:
            listed = load_yaml(given)
        except yaml.YAMLError:
            raise broken_rule(name, given, "values with commas between, or a list") from None
        return listed if isinstance(listed, list) else [given]
    return [part.strip() for part in given.split(",") if part.strip()]
