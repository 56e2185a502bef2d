"""The command line: parse, call, print. Errors are one line on stderr, never a traceback.

Modules that need PyTorch are imported where they are used, so that ``--help`` and mistyped settings
answer at once.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from functools import cache

from dimat.cli.commands import (
    agent,
    align,
    certificates,
    compare,
    completion,
    doctor,
    estimate,
    finish,
    merge,
    report,
    resume,
    run,
    statistics,
    status,
    symmetry,
    topology,
)
from dimat.cli.launch import INTERRUPTED, PIPE_CLOSED, STOPPED, settle
from dimat.errors import ConfigError, DimatError, Interrupted, Stopped, interrupt_of
from dimat.experiment.config.parse import Parser

_COMMANDS = {
    "run": run,
    "resume": resume,
    "agent": agent,
    "status": status,
    "estimate": estimate,
    "compare": compare,
    "report": report,
    "finish": finish,
    "merge": merge,
    "align": align,
    "statistics": statistics,
    "topology": topology,
    "symmetry": symmetry,
    "certificates": certificates,
    "doctor": doctor,
    "completion": completion,
}


_EXIT_CODES = (
    f"Exit codes: 0 done, 1 it went wrong, 2 bad input, {STOPPED} stopped at max_wall_s with more "
    f"to do, {INTERRUPTED} interrupted, {PIPE_CLOSED} whoever read the output has closed the pipe."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: The words after ``dimat``; those of the process if None.

    Returns:
        The exit code.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            if sys.stdout is not None:  # now, as an error at exit could not be handled
                sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return PIPE_CLOSED
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # as rich ends a program
            _discard_output()
            return PIPE_CLOSED
        raise


def _discard_output() -> None:
    """Send what is still to be written nowhere, as whoever read it has closed the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _run(words: list[str]) -> int:
    """Run the words of a command line; returns the exit code, and prints why if it is not 0."""
    try:
        if words[:1] == ["help"]:  # "help run" is "run --help", "help run all" "run --help all"
            words = [*words[1:2], "--help", *words[2:]]
        if not words:
            raise ConfigError(f"no command: one of {', '.join(_COMMANDS)}; see 'dimat --help'")
        if words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
            raise ConfigError(f"no command before '{words[0]}': such as 'dimat run {words[0]} …'")
        words = list(run.as_resume(words))
        arguments = _parser(words[0]).parse_args(words)
        settle()
        _COMMANDS[arguments.command].execute(arguments[arguments.command])
    except (KeyboardInterrupt, Exception) as error:
        if (interrupt := interrupt_of(error)) is not None:  # an Interrupted says how to go on
            said = f"; {interrupt}" if isinstance(interrupt, Interrupted) else ""
            print(f"dimat: interrupted{said}", file=sys.stderr)
            return INTERRUPTED
        if isinstance(error, Stopped):
            print("dimat:", error, file=sys.stderr)
            return STOPPED
        if isinstance(error, DimatError):
            print("dimat: error:", " ".join(str(error).split()), file=sys.stderr)
            return 2 if isinstance(error, ValueError) else 1
        raise
    return 0


def build_parser(only: str | None = None) -> Parser:
    """The parser of all commands, made anew.

    Args:
        only: The command whose options it has, as those of all take longer to make than to import;
            of all commands if None, and of none if there is no such command.
    """
    parser = Parser(
        prog="dimat",
        usage="dimat [--version] COMMAND ...\n       dimat help [COMMAND]",
        description="Decentralized deep learning by iterative merging and training.",
        epilog=_EXIT_CODES,
        version=importlib.metadata.version("dimat"),
        allow_abbrev=False,
    )
    commands = parser.add_subcommands(dest="command")
    parsers = {
        name: command.parser() if only in (None, name) else Parser()
        for name, command in _COMMANDS.items()
    }
    for name, command in _COMMANDS.items():
        commands.add_subcommand(name, parsers[name], help=command.SUMMARY)
    usages = {name: str(own.usage) for name, own in parsers.items()}
    if only in (None, "certificates"):  # once it is a subcommand, not before
        actions = certificates.add_actions(parsers["certificates"])
        usages |= {f"certificates.{name}": usage for name, usage in actions.items()}
    parser.usages = usages
    return parser


_parser = cache(build_parser)
