"""``dimat completion``: print what has a shell complete the words of ``dimat``."""

from __future__ import annotations

from importlib.util import find_spec

from jsonargparse import Namespace

from dimat.errors import ConfigError, check_known
from dimat.experiment.config.parse import Parser

SUMMARY = "print a script by which bash or zsh completes commands"
_SHELLS = ("bash", "zsh")


def parser() -> Parser:
    """The parser of ``dimat completion``."""
    own = Parser(
        usage="dimat completion (bash | zsh)",
        description="Print a script by which a shell completes commands, options and their values. "
        "For bash, write it to ~/.local/share/bash-completion/completions/dimat; for zsh, to a "
        "file _dimat in a folder of $fpath. It needs the package shtab.",
        allow_abbrev=False,
    )
    own.add_argument("shell", type=str, help="bash or zsh")
    return own


def execute(options: Namespace) -> None:
    """Print the script.

    Raises:
        ConfigError: If the shell is unknown, or shtab is not there.
    """
    check_known("shell", options.shell, _SHELLS)
    if find_spec("shtab") is None:
        raise ConfigError(
            "completion scripts are made by the package 'shtab', which is not here: "
            'pip install "dimat[completion]"'
        )
    from dimat.cli import build_parser

    print(build_parser().get_completion_script(f"shtab-{options.shell}"))
