"""Settings by name: their typed values, a config with one changed, names of folders."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import reduce
from typing import Any
from urllib.parse import quote

from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.messages import is_group, not_a_group, setting_types, unknown_setting
from dimat.experiment.config.parse import bare_parser
from dimat.experiment.config.spelling import bracketed, is_list
from dimat.experiment.config.task import has_default_split

_SAFE = "._:+-"
_LONGEST = 180  # file systems take names of 255 bytes


def check_name(name: str, value: object = None) -> None:
    """Refuse the name, given with a value, of a group of settings or of no setting.

    Raises:
        ConfigError: With the closest name, or the parts of the group.
    """
    if is_group(name):
        raise not_a_group(name, value)
    if name not in setting_types():
        raise unknown_setting(name, setting_types())


def typed(name: str, value: object) -> object:
    """A value of a setting in its type, from YAML or from text.

    Raises:
        ConfigError: If there is no such setting, or the value is not of its type.

    >>> typed("agents", "5"), typed("recalibration.methods", "wa"), typed("local_steps", None)
    (5, ('wa',), None)
    """
    check_name(name, value)
    if isinstance(value, str) and is_list(name):
        value = bracketed(value)
    return bare_parser().parse_object(_nested({name: value}))[name]


def with_setting(config: RunConfig, name: str, value: object) -> RunConfig:
    """The config with another value of one setting."""
    group, _, last = name.rpartition(".")
    changed: dict[str, Any] = {last: value}
    if group:
        changed = {group: dataclasses.replace(getattr(config, group), **changed)}
    if name in ("task", "data.source") and has_default_split(config, config.data.split):
        data = changed.get("data", config.data)
        changed["data"] = dataclasses.replace(data, split="auto")
    return dataclasses.replace(config, **changed)


def flat(config: RunConfig) -> dict[str, object]:
    """Every setting by its dotted name, lists as lists."""
    values = {name: reduce(getattr, name.split("."), config) for name in setting_types()}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def shown(value: object) -> str:
    """A setting's value as text, as YAML writes it: lists joined by ``+``.

    >>> shown("ring"), shown(0.001), shown(None), shown(True), shown(("dimat", "wa"))
    ('ring', '0.001', 'null', 'true', 'dimat+wa')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "+".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def point_name(point: Mapping[str, object]) -> str:
    """A grid point as the name of a folder; different points have different names.

    >>> point_name({"topology.name": "ring", "data.source": "npz:a/b.npz"})
    'topology.name=ring,data.source=npz:a%2Fb.npz'
    """
    name = ",".join(f"{name}={quote(shown(value), safe=_SAFE)}" for name, value in point.items())
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _nested(values: Mapping[str, object]) -> dict[str, object]:
    """Dotted names as mappings in mappings."""
    tree: dict[str, object] = {}
    for name, value in values.items():
        group, _, last = name.rpartition(".")
        tree[group or last] = {last: value} if group else value
    return tree
