"""One parser of a :class:`RunConfig`, for YAML files and for the command line."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from dimat.errors import ConfigError, check_kind
from dimat.experiment.config.config import DataConfig, RunConfig
from dimat.experiment.config.forms import check_parts, listed
from dimat.experiment.config.messages import (
    annotated_types,
    explain,
    not_a_group,
    setting_types,
    unknown_setting,
)
from dimat.experiment.config.presets import PRESETS, with_presets
from dimat.experiment.config.rules import rule_of, with_range, without_rules
from dimat.experiment.config.spelling import bracketed, spelled_tree, spelled_words
from dimat.experiment.config.task import has_default_split
from dimat.imports import import_modules
from dimat.plain_yaml import load_yaml
from dimat.registry import added_names

_TEXT = "tag:yaml.org,2002:str"
_ALSO = "; also "
# The registries that settings name things of: those that others may add to.
GROUPS: Mapping[str, str] = {
    "method": "dimat.methods",
    "controls": "dimat.methods",
    "topology.name": "dimat.topologies",
    "data.source": "dimat.sources",
    "data.split": "dimat.splits",
    "task": "dimat.tasks",
    "merging.combine": "dimat.combiners",
    "log": "dimat.logs",
}
# Settings that are gone, by group, at the value that changed nothing: older run folders name them.
_GONE: Mapping[str, Mapping[str, object]] = {"matching": {"drift": None}}
_LONGEST = 10_000_000  # characters of a file of settings
_GROUPS: dict[str, Any] = {
    name: kind for name, kind in get_type_hints(RunConfig).items() if dataclasses.is_dataclass(kind)
}


class _Quoting(yaml.SafeDumper):
    """YAML dumper that quotes all text: a bare 0E0 is a number to jsonargparse."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar(_TEXT, text, style='"'))


class _Help(DefaultHelpFormatter):
    """jsonargparse's help, with types and defaults in words and usages no wider than the rest."""

    def _get_type_str(self, action: argparse.Action) -> str | None:
        kind = getattr(action, "_typehint", action.type)
        return None if kind is None or get_origin(kind) is Literal else rule_of(kind)

    def _expand_help(self, action: argparse.Action) -> str:
        text, default = super()._expand_help(action), action.default
        if isinstance(default, (tuple, list)):
            listed = ",".join(map(str, default)) or "none"
            return text.replace(f"default: {default}", f"default: {listed}")
        return text.replace("default: True", "default: true").replace(
            "default: False", "default: false"
        )

    def _format_usage(self, usage: str | None, *rest: Any, **kwargs: Any) -> str:
        if usage is not None:
            usage = "\n".join(_narrow(line.strip(), self._width - 7) for line in usage.split("\n"))
            usage = usage.replace("\n", f"\n{' ' * 7}")  # below what follows "usage: "
        return super()._format_usage(usage, *rest, **kwargs)


def _narrow(usage: str, width: int) -> str:
    """A usage in lines of a width, each option on one of them.

    >>> print(_narrow("dimat merge A B --out FILE [--rank R] [C ...]", 30))
    dimat merge A B --out FILE
        [--rank R] [C ...]
    """
    whole = re.sub(r"\[[^][]*\]|--\w+ [A-Z]+", lambda own: own[0].replace(" ", "\xa0"), usage)
    lines = textwrap.wrap(whole, width, subsequent_indent=" " * 4, break_on_hyphens=False)
    return "\n".join(lines).replace("\xa0", " ")


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors have one line and are raised as :class:`ConfigError`.

    Attributes:
        short_help: What ``--help`` says where ``--help all`` says everything; None: no difference.
        usages: How its subcommands are called, by name; those of a subcommand by dotted names.
    """

    short_help: Callable[[], str] | None = None
    usages: Mapping[str, str] = MappingProxyType({})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=_Help, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a :class:`ConfigError` instead of printing the usage and leaving."""
        if isinstance(ex, ConfigError):
            raise ex from None
        commands = [name for name in self.usages if f": {name}." in message]
        called = self.usages[max(commands, key=len)] if commands else self.usage or ""
        raise explain(message, self._types(), called.partition("\n")[0]) from None

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Parse a YAML file; an error names the file, and the line if the YAML is broken."""
        try:
            tree = spelled_tree(without_gone(read_yaml(Path(path))), setting_types())
            content = yaml.dump(tree, Dumper=_Quoting)
            parsed: Namespace = self.parse_string(content, *args, **kwargs)
            for name in sorted(set(parsed.keys()) - set(setting_types()) - set(_GROUPS)):
                raise unknown_setting(name, setting_types())
        except ConfigError as error:
            raise ConfigError(f"config file '{path}': {error}") from None
        return parsed

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Namespace:
        """Parse a command line; ``--controls wa,local`` is short for ``--controls [wa,local]``.

        Dashes and underscores are one; ``--topology ring`` is short for ``--topology.name ring``.
        """
        given = with_presets(sys.argv[1:] if args is None else args)
        if {"-h", "--help"} & set(given):  # what is imported is in the help, too
            import_modules(imported_by(given))
        self._help_shortly(given)
        known = [s[2:] for a in self._actions for s in a.option_strings if s.startswith("--")]
        lists = {s for a in self._actions if isinstance(a.default, tuple) for s in a.option_strings}
        flags = {s for a in self._actions if a.nargs == 0 for s in a.option_strings}
        words = _plain_flags(spelled_words(given, known), flags)
        return super().parse_args(_bracket(words, lists), *rest, **kwargs)

    def _help_shortly(self, words: Sequence[str]) -> None:
        """Print the short help and leave, if there is one and it is what is asked for."""
        place = next((k for k, word in enumerate(words) if word in ("-h", "--help")), None)
        if self.short_help and place is not None and list(words[place + 1 :]) != ["all"]:
            self._print_message(f"{self.short_help()}\n", sys.stdout)  # a pipe may be closed
            self.exit()

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The help, with the names that others have added to a registry."""
        for action in self._actions:
            if action.dest in GROUPS and isinstance(action.help, str):
                told = action.help.partition(_ALSO)[0]
                added = also(action.dest).replace("%", "%%")
                action.help = f"{told.rstrip('.')}{added}." if added else told
        return super().format_help(*args, **kwargs)

    def _types(self) -> dict[str, object]:
        """The type of every option, by its name."""
        hints = {a.dest: getattr(a, "_typehint", a.type) for a in self._actions}
        return {name: hint for name, hint in hints.items() if hint}


def _plain_flags(words: Sequence[str], flags: Collection[str]) -> list[str]:
    """The words, where an option that takes no value may be given true or false all the same.

    >>> _plain_flags(["--overwrite", "true", "a", "--yes=false"], {"--overwrite", "--yes"})
    ['--overwrite', 'a']
    """
    found: list[str] = []
    for given in words:
        for word in given.split("=", 1) if given.split("=")[0] in flags else [given]:
            if word not in ("true", "false") or not found or found[-1] not in flags:
                found.append(word)
            elif word == "false":
                found.pop()
    return found


def also(setting: str) -> str:
    """Names that others have added to the values of a setting, as help has them; or empty."""
    names = added_names(GROUPS[setting])
    return f"{_ALSO}{', '.join(names)}" if names else ""


def imported_by(words: Sequence[str]) -> tuple[str, ...]:
    """The modules that a command line has imported.

    >>> imported_by(["--import", "a.b,c", "--imports=d", "--seed", "1"])
    ('a.b', 'c', 'd')
    """
    found: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("--import", "--imports"):
            found += listed(value if equals else following)
    return tuple(found)


def settings_parser(
    usage: str = "dimat run [--config FILE.yaml] [--SETTING VALUE ...]",
    description: str = "Agents train, merge with their neighbors, and are evaluated, by rounds.",
) -> Parser:
    """The parser of ``dimat run``: every setting, ``--config`` and ``--print_config``."""
    parser = Parser(usage=usage, description=description, allow_abbrev=False)
    parser.add_argument(
        "--config",
        action="config",
        metavar="FILE.yaml",
        help="Settings from a file; options after it override them. --preset NAME: from one of "
        f"dimat's own, {', '.join(PRESETS)} (its rule, of CVPR 2024).",
    )
    add_settings(parser, RunConfig, {field.name for field in dataclasses.fields(RunConfig)})
    for action in parser._actions:
        if isinstance(action.default, bool):  # --overwrite alone means --overwrite true
            action.nargs, action.const = "?", True
        if action.dest in _GROUPS:  # a group is set by its parts
            action.help = argparse.SUPPRESS
    return parser


def add_settings(parser: Parser, config: Any, names: Collection[str]) -> None:
    """Add options for settings of a dataclass; help is that of its docstring, and the range."""
    before = len(parser._actions)
    others = {field.name for field in dataclasses.fields(config)} - {*names}
    parser.add_class_arguments(config, as_group=False, skip=others)
    for action in parser._actions[before:]:
        if (kind := annotated_types(config).get(action.dest)) is not None:
            action._typehint = without_rules(kind)  # type: ignore[attr-defined]
            action.help = with_range(str(action.help), kind)


@cache
def bare_parser() -> Parser:
    """The parser of settings alone, made once, as that takes longer than most of its answers."""
    return settings_parser()


def config_of(settings: Namespace) -> RunConfig:
    """The config that parsed settings describe; ranges and names are not checked yet.

    Raises:
        ConfigError: If a group of settings, such as ``topology``, is given as one value.
    """
    values = {field.name: settings[field.name] for field in dataclasses.fields(RunConfig)}
    for name, group in _GROUPS.items():
        if not isinstance(values[name], Namespace):
            raise not_a_group(name, values[name])
        values[name] = group(**vars(values[name]))
    return RunConfig(**values)


def load_config(path: Path) -> RunConfig:
    """Read a YAML file; settings it does not name keep their defaults.

    Raises:
        ConfigError: If the file is missing, is broken YAML, or names an unknown setting or a value
            of the wrong type.
    """
    return config_of(bare_parser().parse_args(["--config", str(path)]))


def config_from(
    given: RunConfig | Mapping[str, object] | str | os.PathLike[str] | None,
    changes: Mapping[str, object],
) -> RunConfig:
    """Config from what a caller gives.

    Args:
        given: A config, settings by name as in a YAML file (``"optimizer.lr"`` too), the path of
            such a file, the name of a preset (``"paper"``), or None for the defaults.
        changes: Settings by name that replace those; of a group those parts that are given.

    Raises:
        ConfigError: If ``given`` is something else, a setting is unknown, or a group of settings is
            given as something that is none.

    >>> config_from({"rounds": 3, "topology": "full"}, {"topology": {"degree": 4}}).topology.name
    'full'
    """
    if given is None or isinstance(given, Mapping):
        return _changed(_changed(RunConfig(), given or {}), changes)
    if isinstance(given, (str, os.PathLike)):
        given = load_config(PRESETS.get(str(given), Path(given)))
    rule = "a RunConfig, settings by name, a preset, or the path of a YAML file"
    check_kind("config", given, RunConfig, rule)
    return _changed(given, changes)


def _changed(config: RunConfig, changes: Mapping[str, object]) -> RunConfig:
    for name in changes:
        check_kind("name of a setting", name, str, "text")
    tree = spelled_tree({k: v for k, v in changes.items() if "." not in k}, setting_types())
    for dotted in (name for name in changes if "." in name):
        group, _, part = dotted.partition(".")
        tree[group] = {**_parts(group, tree.get(group, {})), part: changes[dotted]}
    parts = tree.get("data")
    split_given = isinstance(parts, Mapping) and "split" in parts
    for name, value in tree.items():
        if name not in setting_types() and name not in _GROUPS:
            raise unknown_setting(name, setting_types())
        if isinstance(value, Mapping) and name in _GROUPS:
            check_parts(name, _GROUPS[name], value)
            tree[name] = dataclasses.replace(getattr(config, name), **value)
    data = tree.get("data", config.data)
    if isinstance(data, DataConfig) and has_default_split(config, data.split) and not split_given:
        tree["data"] = dataclasses.replace(data, split="auto")  # that of the new task and source
    return dataclasses.replace(config, **tree)  # type: ignore[arg-type]


def _parts(group: str, given: object) -> Mapping[str, object]:
    if not isinstance(given, Mapping):
        raise not_a_group(group, given)
    return given


def without_gone(tree: Mapping[str, object]) -> dict[str, object]:
    """Settings of a file, less those that are gone where they changed nothing.

    >>> without_gone({"agents": 5, "matching": {"every": 2, "drift": None}})
    {'agents': 5, 'matching': {'every': 2}}
    """

    def kept(group: str, parts: object) -> object:
        gone = _GONE.get(group, {})
        if not gone or not isinstance(parts, Mapping):
            return parts
        return {name: x for name, x in parts.items() if name not in gone or x != gone[name]}

    return {name: kept(name, value) for name, value in tree.items()}


def config_to_yaml(config: RunConfig) -> str:
    """Every setting as YAML, in the order of the config; :func:`load_config` gives it back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _bracket(args: Sequence[str], lists: set[str]) -> list[str]:
    """Put brackets around the value of every option in ``lists`` that has none.

    >>> _bracket(["--controls", "wa,local", "--seed", "1", "--log=none"], {"--controls", "--log"})
    ['--controls', '[wa,local]', '--seed', '1', '--log=[]']
    """
    words = list(args)
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in lists and equals:
            words[i] = f"{option}={bracketed(value)}"
        elif i > 0 and words[i - 1] in lists and not word.startswith("--"):
            words[i] = bracketed(word)
    return words


def read_yaml(path: Path) -> dict[str, object]:
    """The content of a YAML file of settings.

    Raises:
        ConfigError: If the file is not YAML, naming the line, or holds no settings.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise ConfigError(f"longer than {_LONGEST:,} characters: not a file of settings")
        settings = load_yaml(text)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"broken YAML in line {line}: {error.problem}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("not YAML text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML text: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ConfigError("no settings in it: write lines such as 'agents: 5'")
    return settings
