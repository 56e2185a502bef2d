"""The short help of a command with many settings: the main ones explained, then all by name."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping

from dimat.experiment.config.messages import setting_types
from dimat.experiment.config.parse import GROUPS, Parser, also
from dimat.experiment.config.spelling import spelled

FIRST: Mapping[str, str] = {
    "config": "settings from a file; those after it override",
    "agents": "how many train and merge",
    "rounds": "merges after pre-training",
    "pretrain_epochs": "of every agent, before the first merge",
    "local_epochs": "of every agent, after each merge",
    "method": "dimat, wa, wm, local, cdsgd, sgp, fedavg, …",
    "controls": "methods to compare it with, or none",
    "topology": "ring, full, star, torus, exponential, …",
    "data": "digits, npz:PATH, folder:PATH, csv:PATH, …",
    "data.split": "iid, by-class, dirichlet, …",
    "model": "mlp, cnn, resnet20, … or module:factory",
    "optimizer.lr": "learning rate of local training",
    "device": "cpu, cuda or cuda:N",
    "seed": "of everything random",
    "out": "run folder; by default a new one in runs/",
}
_NARROWEST, _WIDEST = 60, 100


def short_help(command: str, parser: Parser, first: Mapping[str, str]) -> str:
    """The text of ``--help``; that of ``--help all`` explains every setting.

    Args:
        command: The command's name, such as ``dimat run``.
        parser: The command's parser.
        first: The options to show first, each with its explanation in a line.
    """
    calls = [_call(parser, name) for name in first]
    column = max(map(len, calls)) + 2
    told = [f"{text}{_also(name)}" for name, text in first.items()]
    lines = [f"  {call:{column}}{text}" for call, text in zip(calls, told, strict=True)]
    return "\n".join(
        (
            parser.format_usage().rstrip(),
            *("", *_wrapped(parser.description or "")),
            *("", "used first, with their defaults:", *lines),
            *("", f"all settings, as YAML groups them; '{command} --help all' explains each:"),
            *_groups(),
        )
    )


def _also(name: str) -> str:
    """The names that plug-ins have added to those of an option, as text."""
    setting = spelled(name, setting_types())
    return also(setting) if setting in GROUPS else ""


def _call(parser: Parser, name: str) -> str:
    """An option with its default, or with a placeholder for its value if it has none."""
    option = f"--{spelled(name, setting_types())}"
    action = next(own for own in parser._actions if option in own.option_strings)
    if action.nargs == 0:  # a flag, without a value
        return option
    value = action.default
    if value is None:
        value = action.metavar or action.dest.upper()
    return f"--{name} {','.join(value) if isinstance(value, tuple) else value}"


def _groups() -> list[str]:
    """The lines that name all settings, a paragraph for each group."""
    groups: dict[str, list[str]] = {}
    for setting in setting_types():
        group, dot, name = setting.rpartition(".")
        groups.setdefault(group + dot, []).append(name)
    column, alone = max(map(len, groups)) + 1, groups.pop("")
    return _wrapped(", ".join(alone), "  ", "  ") + [
        line
        for group, names in groups.items()
        for line in _wrapped(", ".join(names), f"  {group:{column}}", " " * (column + 2))
    ]


def _wrapped(text: str, first: str = "", others: str = "") -> list[str]:
    width = min(max(shutil.get_terminal_size().columns - 1, _NARROWEST), _WIDEST)
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
    )
