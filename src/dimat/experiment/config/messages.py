"""Errors of settings by name: unknown ones, groups, and what jsonargparse refuses.

jsonargparse's messages span several lines and know nothing of our settings, so :func:`explain` says
them again in one line: setting, value, rule, hint.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, get_type_hints

from dimat.errors import ConfigError, did_you_mean
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.rules import broken_rule, rule_of, without_rules, wrong_type


@cache
def annotated_types(config: type[Any] = RunConfig, prefix: str = "") -> Mapping[str, object]:
    """The type of every setting, with its rules, by its dotted name in the order of the config."""
    types: dict[str, object] = {}
    for name, kind in get_type_hints(config, include_extras=True).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            types |= annotated_types(kind, f"{prefix}{name}.")
        else:
            types[prefix + name] = kind
    return types


@cache
def setting_types() -> Mapping[str, object]:
    """The type of every setting by its dotted name, in the order of the config.

    >>> setting_types()["topology.name"]
    <class 'str'>
    """
    return {name: without_rules(kind) for name, kind in annotated_types().items()}


def unknown_setting(name: str, known: Iterable[str]) -> ConfigError:
    """The error for an unknown setting, with the closest name, not with all forty.

    >>> unknown_setting("lr", ["agents", "optimizer.name", "optimizer.lr"])
    ConfigError("unknown setting 'lr': did you mean 'optimizer.lr'?")
    """
    group, _, last = name.rpartition(".")
    siblings = [setting for setting in known if not group or setting.startswith(f"{group}.")]
    words = {s: s for s in known} | {s.rpartition(".")[2]: s for s in reversed(siblings)}
    close = difflib.get_close_matches(last if siblings else name, words, n=1)
    hint = f"did you mean '{words[close[0]]}'?" if close else "see --help"
    if close and "." in words[close[0]] and name == words[close[0]].replace(".", "_"):
        part, _, own = words[close[0]].partition(".")
        hint += f" As a keyword: {part}={{'{own}': ...}} or **{{'{part}.{own}': ...}}"
    return ConfigError(f"unknown setting '{name}': {hint}")


def is_group(name: str) -> bool:
    """Whether a name is that of a group of settings."""
    return any(setting.startswith(f"{name}.") for setting in setting_types())


def not_a_group(name: str, value: object) -> ConfigError:
    """The error for a value given to a group of settings, such as ``--matching pairwise``."""
    parts = [setting for setting in setting_types() if setting.startswith(f"{name}.")]
    return broken_rule(name, value, f"set by its parts: {', '.join(parts)}")


def explain(message: str, types: Mapping[str, object], usage: str = "") -> ConfigError:
    """The error for jsonargparse's ``message``.

    Args:
        message: What jsonargparse says.
        types: The type of every option by its name.
        usage: How the command is called; empty if there is nothing to show.

    >>> explain("unrecognized arguments: --agens 3", {"agents": int})
    ConfigError("unknown setting 'agens': did you mean 'agents'?")
    >>> explain("unrecognized arguments: a", {"agents": int}, "dimat doctor [--json]")
    ConfigError("unexpected 'a': a setting is written --NAME VALUE, as in: dimat doctor [--json]")
    """
    for pattern, complain in _COMPLAINTS:
        if found := re.search(pattern, message, re.DOTALL):
            error, shows = complain(types, *found.groups()), usage and pattern in _BY_USAGE
            return ConfigError(f"{error}, as in: {usage}") if shows else error
    return ConfigError(" ".join(message.split()))


_Types = Mapping[str, object]


def _unknown(types: _Types, name: str) -> ConfigError:
    if name in types:  # what stands for itself, such as the checkpoints of a merge
        return ConfigError(f"unknown setting '{name}': its values are written without a name")
    return unknown_setting(name, types)


def _unexpected(_: _Types, word: str) -> ConfigError:
    way = f"--config {word}" if word.endswith((".yaml", ".yml")) else "--NAME VALUE"
    return ConfigError(f"unexpected '{word}': a setting is written {way}")


def _no_part(types: _Types, name: str, part: str) -> ConfigError:
    hint = f": a setting of its own is '{part}'" if part in types else ""
    return ConfigError(f"unknown setting '{name}.{part}', as '{name}' has no parts here{hint}")


def _no_value(types: _Types, name: str) -> ConfigError:
    rule = f": must be {rule_of(types[name])}" if name in types else ""
    return ConfigError(f"setting '{name}' has no value{rule}")


def _unknown_command(_: _Types, name: str, commands: str) -> ConfigError:
    hint = did_you_mean(name, re.findall(r"\w+", commands))
    return ConfigError(f"unknown command '{name}': {hint}")


def _no_command(_: _Types, commands: str) -> ConfigError:
    return ConfigError(f"no command: one of {commands.replace(',', ', ')}; see 'dimat --help'")


def _said(text: str) -> Callable[..., ConfigError]:
    """Function that makes the error of a text, with the words found put in, on one line."""
    return lambda types, found: ConfigError(text.format(" ".join(found.split())))


_STRAY = r"unrecognized arguments: (\S+)"
_MISSING = r"arguments are required: (?:[^\s,]+\.)?([^\s,]+)"
_BY_USAGE = (_STRAY, _MISSING)  # what is best told by how the command is called
_COMPLAINTS: tuple[tuple[str, Callable[..., ConfigError]], ...] = (
    (r"unrecognized arguments: --([^\s=]+)", _unknown),
    (_STRAY, _unexpected),
    (r"argument --(\S+): expected one argument", _no_value),
    (_MISSING, _said("setting '{}' is missing")),
    (r"invalid choice: '(.*?)' \(choose from (.*)\)", _unknown_command),
    (r"to be one of \{(.*)\}, but it was not provided", _no_command),
    (r'^Parser key "config": (.*)', _said("setting 'config': {}")),
    (
        r"^Parser key \"(.+?)\":\s+Unable to load config '(.*?)'",
        lambda _, name, value: not_a_group(name, value),
    ),
    (r"^Parser key \"(.+?)\":.*?value: NestedArg\(key='(.+?)'", _no_part),
    (
        r'^Parser key "(.+?)":.*?(?:Got|Given) value: (.*)',
        lambda types, name, value: wrong_type(name, value, types.get(name)),
    ),
)
