"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from jsonargparse import Namespace

from dimat.errors import ConfigError
from dimat.experiment.config.messages import is_group, setting_types, unknown_setting
from dimat.experiment.config.parse import Parser, add_settings
from dimat.experiment.config.spelling import spelled
from dimat.tools.merge.settings import AlignConfig


def add_checkpoint_options(parser: Parser) -> None:
    """Add the options that ``dimat align`` and ``dimat merge`` have in common."""
    names = {own.name for own in fields(AlignConfig)} - {"parents", "overwrite"}
    add_settings(parser, AlignConfig, names)
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


class SettingsLater(Parser):
    """Parser that leaves ``--SETTING VALUE`` and ``--grid.SETTING VALUES`` for later.

    Args:
        own: Names of the options of its own that have values.
        rest: Further arguments of ``ArgumentParser``.
    """

    def __init__(self, own: Sequence[str] = (), **rest: Any) -> None:
        super().__init__(**rest)
        self._own = own

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any
    ) -> Namespace:
        """Parse a command line."""
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
    """Name of an option of the command, of a setting, or ``grid.`` and a setting, as known."""
    grid, dot, setting = name.partition("grid.") if name.startswith("grid.") else ("", "", name)
    return f"{grid}{dot}{spelled(spelled(setting, own), setting_types())}"


def _known(own: Sequence[str], name: str) -> str:
    """The name, if there is a setting, or a group of settings, of it."""
    if name not in setting_types() and not is_group(name):
        raise unknown_setting(name, [*own, *setting_types()])
    return name


def _value(name: str, word: str, rest: Iterator[str]) -> str:
    """Value of an option: the text after ``=``, or the next word."""
    value = word.partition("=")[2] if "=" in word else next(rest, "--")
    if value.startswith("--"):
        raise ConfigError(f"setting '{name}' has no value: write --{name} VALUE")
    return value
