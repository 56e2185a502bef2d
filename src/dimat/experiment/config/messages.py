"""What is wrong with a setting, in one line: where, value, rule, hint.

jsonargparse finds most mistakes; its messages span several lines and know nothing of our settings,
so :func:`explain` says them again.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

from dimat.errors import ConfigError, did_you_mean, quoted
from dimat.experiment.config.config import RunConfig

_PLAIN = (str, int, float, list, tuple, dict, NoneType)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@cache
def setting_types(config: type = RunConfig, prefix: str = "") -> Mapping[str, object]:
    """The type of every setting by its dotted name, in the order of the config.

    >>> setting_types()["topology.name"]
    <class 'str'>
    """
    types: dict[str, object] = {}
    for name, kind in get_type_hints(config).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            types |= setting_types(kind, f"{prefix}{name}.")
        else:
            types[prefix + name] = kind
    return types


def rule_of(kind: object) -> str:
    """What a value of the type ``kind`` has to be, in words.

    >>> rule_of(int | None), rule_of(Literal["batch", "group"])
    ('a whole number or null', "'batch' or 'group'")
    """
    if get_origin(kind) is Literal:
        return " or ".join(f"'{choice}'" for choice in get_args(kind))
    if type(None) in get_args(kind):
        return " or ".join(rule_of(k) for k in get_args(kind) if k is not type(None)) + " or null"
    if isinstance(kind, type) and kind in _WORDS:
        return _WORDS[kind]
    return "a list, such as a,b, or none"


def broken_rule(name: str, value: object, rule: str) -> ConfigError:
    """The error for a setting whose ``value`` breaks a ``rule``.

    >>> broken_rule("agents", 0, ">= 1")
    ConfigError("setting 'agents' is 0: must be >= 1")
    """
    return ConfigError(f"setting '{name}' is {_shown(value)}: must be {rule}")


def _shown(value: object) -> str:
    """A value as a message has it: of a long one the beginning, of an object its type."""
    if not isinstance(value, _PLAIN):
        return quoted(value)
    try:
        text = "null" if value is None else repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_LONGEST = 120  # characters of a value in a message
MOST = 10**9  # of anything that is counted or measured: more is a slip of the hand
MOST_CLASSES = 10**6
MOST_PIXELS = 10**5  # along a side


def within(name: str, value: float, least: float, most: float = MOST, why: str = "") -> None:
    """Refuse a number that is too low or too high for a setting.

    Args:
        name: The setting.
        value: What was given for it.
        least: The lowest that it may be.
        most: The highest.
        why: What the highest is for.

    Raises:
        ConfigError: With the bound that is broken.

    >>> within("agents", 6000, 1, 5000)
    Traceback (most recent call last):
        ...
    dimat.errors.ConfigError: setting 'agents' is 6000: must be <= 5,000
    """
    if value < least:
        raise broken_rule(name, value, f">= {least}")
    if value > most:
        shown = f"{most:,}" if most < 10**12 else f"{most:g}"
        raise broken_rule(name, value, f"<= {shown}{why and f', {why}'}")


def wrong_type(name: str, value: object, kind: object) -> ConfigError:
    """The error for a setting whose value is not of the type ``kind``."""
    close = difflib.get_close_matches(str(value), [str(choice) for choice in get_args(kind)], n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return broken_rule(name, value, rule_of(kind) + hint)


def unknown_setting(name: str, known: Iterable[str]) -> ConfigError:
    """The error for a setting there is none of: with the closest name, not with all forty.

    >>> unknown_setting("lr", ["agents", "optimizer.name", "optimizer.lr"])
    ConfigError("unknown setting 'lr': did you mean 'optimizer.lr'?")
    """
    group, _, last = name.rpartition(".")
    siblings = [setting for setting in known if not group or setting.startswith(f"{group}.")]
    words = {s: s for s in known} | {s.rpartition(".")[2]: s for s in reversed(siblings)}
    close = difflib.get_close_matches(last if siblings else name, words, n=1)
    hint = f"did you mean '{words[close[0]]}'?" if close else "see --help"
    return ConfigError(f"unknown setting '{name}': {hint}")


def not_a_group(name: str, value: object) -> ConfigError:
    """The error for a value given to a group of settings, such as ``--matching pairwise``."""
    parts = [setting for setting in setting_types() if setting.startswith(f"{name}.")]
    return broken_rule(name, value, f"set by its parts: {', '.join(parts)}")


def explain(message: str, types: Mapping[str, object]) -> ConfigError:
    """The error that jsonargparse's ``message`` is about; the message on one line if not known.

    Args:
        message: What jsonargparse says.
        types: The type of every option of the command, by its name.

    >>> explain("unrecognized arguments: --agens 3", {"agents": int})
    ConfigError("unknown setting 'agens': did you mean 'agents'?")
    """
    for pattern, complain in _COMPLAINTS:
        if found := re.search(pattern, message, re.DOTALL):
            return complain(types, *found.groups())
    return ConfigError(" ".join(message.split()))


_Types = Mapping[str, object]


def _unknown(types: _Types, name: str) -> ConfigError:
    return unknown_setting(name, types)


def _unexpected(_: _Types, word: str) -> ConfigError:
    way = f"--config {word}" if word.endswith((".yaml", ".yml")) else "--NAME VALUE"
    return ConfigError(f"unexpected '{word}': a setting is written {way}")


def _no_value(types: _Types, name: str) -> ConfigError:
    rule = f": must be {rule_of(types[name])}" if name in types else ""
    return ConfigError(f"setting '{name}' has no value{rule}")


def _missing(_: _Types, name: str) -> ConfigError:
    return ConfigError(f"setting '{name.rpartition('.')[2]}' is missing: see --help")


def _bad_file(_: _Types, problem: str) -> ConfigError:
    return ConfigError(f"setting 'config': {' '.join(problem.split())}")


def _bad_group(_: _Types, name: str, value: str) -> ConfigError:
    return not_a_group(name, value)


def _bad_value(types: _Types, name: str, value: str) -> ConfigError:
    return wrong_type(name, value, types.get(name))


def _unknown_command(_: _Types, name: str, commands: str) -> ConfigError:
    hint = did_you_mean(name, re.findall(r"\w+", commands))
    return ConfigError(f"unknown command '{name}': {hint}")


def _no_command(_: _Types, commands: str) -> ConfigError:
    return ConfigError(f"no command: one of {commands.replace(',', ', ')}; see 'dimat --help'")


_COMPLAINTS: tuple[tuple[str, Callable[..., ConfigError]], ...] = (
    (r"unrecognized arguments: --([^\s=]+)", _unknown),
    (r"unrecognized arguments: (\S+)", _unexpected),
    (r"argument --(\S+): expected one argument", _no_value),
    (r"arguments are required: ([^\s,]+)", _missing),
    (r"invalid choice: '(.*?)' \(choose from (.*)\)", _unknown_command),
    (r"to be one of \{(.*)\}, but it was not provided", _no_command),
    (r'^Parser key "config": (.*)', _bad_file),
    (r"^Parser key \"(.+?)\":\s+Unable to load config '(.*?)'", _bad_group),
    (r'^Parser key "(.+?)":.*?(?:Got|Given) value: (.*)', _bad_value),
)
