"""Settings by their dotted names, and those in which runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from dimat.experiment.config.access import flat as defaults
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.parse import without_gone

# Settings that name a run, or choose what is recorded and where; all others are compared.
_ASIDE = ("method", "controls", "seed", "out", "overwrite", "log")
_ASIDE_GROUPS = ("checkpoint.", "diagnostics.")


def flat(found: Mapping[str, object]) -> dict[str, object]:
    """Every setting by its dotted name, in the order of the config; unknown ones come last.

    Args:
        found: Content of a ``config.yaml``, groups as mappings; missing settings have their
            defaults, as for ``dimat run --config``.
    """
    return defaults(RunConfig()) | dict(_leaves(without_gone(found)))


def _leaves(found: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def comparable(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that are compared: all but method, seed, output and what is recorded.

    Args:
        settings: All settings by dotted name.
    """
    return {
        name: value
        for name, value in settings.items()
        if name not in _ASIDE and not name.startswith(_ASIDE_GROUPS)
    }


def differing(settings: Iterable[Mapping[str, object]]) -> tuple[str, ...]:
    """The names of settings in which runs differ, in the order they first occur.

    Args:
        settings: The settings of each run by dotted name.

    >>> differing([{"agents": 5, "model": "mlp"}, {"agents": 10, "model": "mlp"}])
    ('agents',)
    """
    everyone = list(settings)
    names = dict.fromkeys(name for each in everyone for name in each)
    return tuple(n for n in names if len({key_of(each.get(n)) for each in everyone}) > 1)


def key_of(value: object) -> str:
    """A text that is the same for equal values and different for different ones.

    Args:
        value: A JSON value.
    """
    return json.dumps(value, sort_keys=True, default=str)


def shown(value: object) -> str:
    """The value of a setting as it is written on the command line.

    Args:
        value: The value, as read from YAML.

    >>> shown(None), shown(True), shown(["wa", "local"]), shown(0.1)
    ('null', 'true', 'wa,local', '0.1')
    """
    if isinstance(value, list | tuple):
        return ",".join(shown(part) for part in value)
    return str(value) if isinstance(value, str) else json.dumps(value, default=str)


def short_name(name: str, among: Iterable[str]) -> str:
    """The last part of a dotted name, or the group of ``GROUP.name``, if that is unambiguous.

    Args:
        name: The dotted name.
        among: All names that it must be told from.

    >>> short_name("topology.name", ["topology.name", "data.alpha"])
    'topology'
    >>> short_name("topology.seed", ["topology.seed", "data.seed"])
    'topology.seed'
    """

    def shorten(dotted: str) -> str:
        group, _, last = dotted.rpartition(".")
        return group if group and last == "name" else last

    taken = [shorten(other) for other in among if other != name]
    return name if shorten(name) in taken else shorten(name)
