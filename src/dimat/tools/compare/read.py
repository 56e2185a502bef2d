"""A comparison read from a YAML file and from what the command line says differently.

The file holds settings, as ``dimat run --config`` reads them, and may hold a group ``compare``:

    compare:
      methods: [dimat, wa, local]
      seeds: 0..4
      grid:
        topology.name: [ring, full]

A ``comparison.yaml``, as a comparison writes it, is read as well.
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
from dimat.experiment.config.plain_yaml import load_yaml
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.spelling import spelled, spelled_tree
from dimat.tools.compare.spec import Spec, refuse_elsewhere

_PARTS = ("methods", "seeds", "grid")
_SEEDS = "such as 0..4, or 0,2,5, or one number"
_MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Overrides:
    """Texts of a command line that override the file.

    Args:
        methods: Names, with commas between; as in the file if None.
        seeds: Such as ``0..4``; as in the file if None.
        grid: Values of settings that vary, with commas between.
        settings: Values of settings that all runs share.
    """

    methods: str | None = None
    seeds: str | None = None
    grid: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


def read_spec(path: Path, wishes: Overrides | None = None) -> Spec:
    """Comparison of a YAML file, with its overrides.

    Methods, where neither names them, are the method and the controls of the file; seeds are its
    one seed.

    Raises:
        ConfigError: For the first thing that is wrong; what is wrong in the file is said of it.
    """
    wishes = wishes or Overrides()
    try:
        base, given = _read(path)
        grid = _grid(given.get("grid", {}))
        methods = _names(given.get("methods", [base.method, *_others(base)]))
        seeds = parse_seeds(given.get("seeds", base.seed))
    except ConfigError as error:
        raise ConfigError(f"config file '{path}': {error}") from None
    methods = methods if wishes.methods is None else _names(wishes.methods)
    seeds = seeds if wishes.seeds is None else parse_seeds(wishes.seeds)
    grid |= _grid(wishes.grid)
    for name, text in wishes.settings.items():
        refuse_elsewhere(name, name)
        check_name(name, text)
        if name in grid:
            raise ConfigError(f"setting '{name}' varies: give its values by --grid.{name}")
        base = with_setting(base, name, typed(name, text))
    return Spec(base, methods, seeds, grid)


def read_out(path: Path) -> Path:
    """Folder of a comparison if no other is given: ``runs/compare-STEM``.

    For a ``comparison.yaml`` it is the folder that holds it.
    """
    own = path.name == "comparison.yaml"
    return path.parent if own else Path("runs", f"compare-{path.stem}")


def parse_seeds(given: object) -> tuple[int, ...]:
    """Seeds from ``0..4`` (both ends count), ``0,2,5``, a number, or a list of these.

    Raises:
        ConfigError: If it is none of these.

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
    """Dotted names of all values."""
    names: list[str] = []
    for name, value in content.items():
        full = f"{prefix}{name}"
        names += _leaves(value, f"{full}.") if isinstance(value, dict) else [full]
    return names


def _others(config: RunConfig) -> list[str]:
    return [name for name in config.controls if name != config.method]


def _names(given: object) -> tuple[str, ...]:
    """Names of methods: a list, or text with commas."""
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise broken_rule("methods", given, "names of methods, such as dimat,wa,local")
    return tuple(part.strip() for part in parts if part.strip())


def _grid(given: object) -> dict[str, tuple[object, ...]]:
    """Typed values of every setting that varies."""
    if not isinstance(given, Mapping):
        raise broken_rule("grid", given, "settings with their values, such as agents: [5, 10]")
    grid: dict[str, tuple[object, ...]] = {}
    for word, values in given.items():
        name = str(word) if isinstance(values, Mapping) else spelled(str(word), setting_types())
        refuse_elsewhere(name, f"grid.{word}")
        grid[name] = tuple(typed(name, value) for value in _values(f"grid.{word}", values))
    return grid


def _values(name: str, given: object) -> Sequence[object]:
    """One value, several with commas, or a list as YAML has it."""
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
