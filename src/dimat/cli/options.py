"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from jsonargparse import Namespace

from dimat.errors import ConfigError
from dimat.experiment.config.messages import setting_types, unknown_setting
from dimat.experiment.config.parse import Parser
from dimat.experiment.config.spelling import spelled


def add_model_options(parser: Parser) -> None:
    """Add the options of a built-in model: width, shortcut, norm."""
    add = parser.add_argument
    add("--width", type=float, default=1.0, help="multiplier of a built-in model's channels")
    add("--shortcut", type=Literal["conv3", "conv1", "pad"], default="conv3", help="of ResNets")
    add("--norm", type=Literal["batch", "group"], default="batch", help="of ResNets")


def add_checkpoint_options(parser: Parser) -> None:
    """Add the options that ``dimat align`` and ``dimat merge`` have in common."""
    add = parser.add_argument
    add("--model", type=str, required=True, help="built-in, or package.module:factory")
    data = "digits, npz:PATH, folder:PATH or hf:NAME; labels are for testing only"
    add("--data", type=str, required=True, help=data)
    add("--out", type=str, required=True, help="the .safetensors file to write")
    add_model_options(parser)
    add(
        "--classes",
        type=int | None,
        default=None,
        help="width of the output; of the labels if null",
    )
    normalize = "MEAN/STD of images in [0, 1], numbers or one a channel: .49,.48,.45/.25,.24,.26"
    add("--normalize", type=str | None, default=None, help=f"{normalize}; 0.5/0.25 if null")
    add("--method", type=str, default="activations", help="how units are matched")
    add("--images", type=int, default=2000, help="training images looked at, at most")
    add("--batch-size", type=int, default=250, help="images a forward pass")
    add("--device", type=str, default="cpu", help="cpu, cuda or cuda:N")
    add("--threads", type=int, default=2, help="threads PyTorch may use on the CPU")
    add("--seed", type=int, default=0, help="of the choice of images")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--imports", type=tuple[str, ...], default=(), help="modules with matchers of your own")


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
    known = setting_types()
    if name not in known and not any(setting.startswith(f"{name}.") for setting in known):
        raise unknown_setting(name, [*own, *known])
    return name


def _value(name: str, word: str, rest: Iterator[str]) -> str:
    """The value of an option: the text after ``=``, or the next word."""
    value = word.partition("=")[2] if "=" in word else next(rest, "--")
    if value.startswith("--"):
        raise ConfigError(f"setting '{name}' has no value: write --{name} VALUE")
    return value
