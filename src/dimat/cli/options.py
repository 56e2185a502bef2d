"""Options that several commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from jsonargparse import Namespace

from dimat.errors import ConfigError
from dimat.experiment.config.messages import is_group, setting_types, unknown_setting
from dimat.experiment.config.parse import Parser, add_settings
from dimat.experiment.config.places import check_path
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.spelling import spelled
from dimat.tools.merge.settings import ParentsConfig

_NAME = "[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"  # as certificates can bear


def add_checkpoint_options(parser: Parser) -> None:
    """Add the options that ``dimat align``, ``merge`` and ``statistics`` have in common."""
    names = {own.name for own in fields(ParentsConfig)} - {"parents", "overwrite"}
    add_settings(parser, ParentsConfig, names)
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def add_protection(parser: Parser) -> None:
    """Add the options that say what protects the connections between agents."""
    add = parser.add_argument
    told = "folder of the own certificate and key, see 'dimat certificates'"
    add("--certificates", type=str | None, default=None, metavar="FOLDER", help=told)
    add("--insecure", action="store_true", help="plaintext, for agents on this machine alone")
    add(
        "--trusted-network",
        action="store_true",
        help="plaintext: everybody on the network may read and change what agents say",
    )
    told = "of the run; certificates name it themselves"
    add("--name", type=str | None, default=None, metavar="RUN", help=told)


def check_protection(options: Mapping[str, Any]) -> None:
    """Refuse values of these options that nobody means, before PyTorch is imported."""
    if options["certificates"] is not None:
        check_path("certificates", options["certificates"])
    if options["name"] is not None and not re.fullmatch(_NAME, options["name"]):
        rule = "1 to 40 of a-z, 0-9 and '-', with no '-' at either end"
        raise broken_rule("name", options["name"], rule)


class SettingsLater(Parser):
    """A parser that collects ``--SETTING VALUE`` and ``--grid.SETTING VALUES`` as text.

    They are in ``given`` of the parsed options, to be typed where the base settings are known.

    Args:
        own: Names of the command's own options.
        rest: Other arguments of an ``ArgumentParser``.
    """

    def __init__(self, own: Sequence[str] = (), **rest: Any) -> None:
        super().__init__(**rest)
        self._own = own

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Namespace:
        """Parse a command line; ``given`` of the result has the settings and the grid."""
        own: list[str] = []
        grid: dict[str, str] = {}
        settings: dict[str, str] = {}
        words = iter(sys.argv[1:] if args is None else args)
        for word in words:
            name = _spelled(word[2:].partition("=")[0], self._own)
            if not word.startswith("--") or name in self._own:
                own.append(word)
            elif name.startswith("grid."):
                grid[_known(self._own, name.removeprefix("grid."))] = _value(name, word, words)
            else:
                settings[_known(self._own, name)] = _value(name, word, words)
        options = super().parse_args(own, *rest, **kwargs)
        options["given"] = {"grid": grid, "settings": settings}
        return options


def _spelled(name: str, own: Sequence[str]) -> str:
    """The full name of an option of the command, of a setting, or of ``grid.`` and a setting."""
    grid, dot, setting = name.partition("grid.") if name.startswith("grid.") else ("", "", name)
    return f"{grid}{dot}{spelled(spelled(setting, own), setting_types())}"


def _known(own: Sequence[str], name: str) -> str:
    """The name of a setting or of a group of settings; an unknown one is refused."""
    if name not in setting_types() and not is_group(name):
        raise unknown_setting(name, [*own, *setting_types()])
    return name


def _value(name: str, word: str, rest: Iterator[str]) -> str:
    """The value of an option: the text after ``=``, or the next word."""
    value = word.partition("=")[2] if "=" in word else next(rest, "--")
    if value.startswith("--"):
        raise ConfigError(f"setting '{name}' has no value: write --{name} VALUE")
    return value


def add_continuous(parser: Parser, what: str) -> None:
    """The option for alignment by matrices.

    Args:
        parser: Gets the option.
        what: What is done, the beginning of the help.
    """
    where = "heads of attention, normed residual streams, adapters"
    parser.add_argument("--continuous", action="store_true", help=f"{what}: {where}")
