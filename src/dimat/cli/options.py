"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from jsonargparse import Namespace

from dimat.errors import ConfigError
from dimat.experiment.config.config import RunConfig
from dimat.experiment.config.messages import annotated_types, setting_types, unknown_setting
from dimat.experiment.config.parse import Parser
from dimat.experiment.config.rules import with_range, without_rules
from dimat.experiment.config.spelling import spelled
from dimat.tools.merge.settings import AlignConfig

_MODEL = ("width", "shortcut", "norm")
_CHECKPOINTS = {
    "model": "built-in, or package.module:factory",
    "data": "digits, npz:PATH, folder:PATH or hf:NAME; labels are for testing only",
    "out": "the .safetensors file to write",
    "width": "multiplier of a built-in model's channels",
    "shortcut": "of ResNets",
    "norm": "of ResNets",
    "classes": "width of the output; of the labels if null",
    "normalize": "MEAN/STD of images in [0, 1], numbers or one a channel: "
    ".49,.48,.45/.25,.24,.26; 0.5/0.25 if null",
    "method": "how units are matched",
    "images": "training images looked at, at most",
    "batch_size": "images a forward pass",
    "device": "cpu, cuda or cuda:N",
    "threads": "threads PyTorch may use on the CPU",
    "seed": "of the choice of images",
    "overwrite": "replace files that exist",
    "imports": "modules with matchers of your own",
}


def add_settings(parser: Parser, config: type, told: Mapping[str, str]) -> None:
    """Add options for settings of a dataclass, with the types, ranges and defaults of its fields.

    Args:
        parser: The parser.
        config: The dataclass.
        told: Help of each of those settings.
    """
    defaults = {own.name: own.default for own in fields(config)}
    kinds = annotated_types(config)
    for name, text in told.items():
        given: dict[str, Any] = {"type": without_rules(kinds[name]), "default": defaults[name]}
        if defaults[name] is MISSING:
            given |= {"default": None, "required": True}
        elif defaults[name] is False:
            given = {"action": "store_true"}
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, help=with_range(text, kinds[name]), **given)


def add_model_options(parser: Parser) -> None:
    """Add the options that a built-in model is made of."""
    add_settings(parser, RunConfig, {name: _CHECKPOINTS[name] for name in _MODEL})


def add_checkpoint_options(parser: Parser) -> None:
    """Add the options that ``dimat align`` and ``dimat merge`` have in common."""
    add_settings(parser, AlignConfig, _CHECKPOINTS)


class SettingsLater(Parser):
    """A parser that leaves ``--SETTING VALUE`` and ``--grid.SETTING VALUES`` for later.

    Args:
        own: The names of its own options that have values.
        rest: As an ``ArgumentParser`` takes it.
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
    """One of its own options, a setting, or ``grid.`` and a setting."""
    grid, dot, setting = name.partition("grid.") if name.startswith("grid.") else ("", "", name)
    return f"{grid}{dot}{spelled(spelled(setting, own), setting_types())}"


def _known(own: Sequence[str], name: str) -> str:
    """The name, if there is a setting, or a group of settings, of it."""
    known = setting_types()
    if name not in known and not any(setting.startswith(f"{name}.") for setting in known):
        raise unknown_setting(name, [*own, *known])
    return name


def _value(name: str, word: str, rest: Iterator[str]) -> str:
    """What follows ``=``, or the next word."""
    value = word.partition("=")[2] if "=" in word else next(rest, "--")
    if value.startswith("--"):
        raise ConfigError(f"setting '{name}' has no value: write --{name} VALUE")
    return value
