"""``dimat run``: run a method and its controls on all agents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from dimat.cli.helping import FIRST, short_help
from dimat.cli.launch import importing, restarted, world_of
from dimat.errors import ConfigError
from dimat.experiment.config.parse import Parser, config_of, settings_parser
from dimat.experiment.config.validate import validate

if TYPE_CHECKING:
    from dimat.experiment.record.results import RunResult

SUMMARY = "train, merge and evaluate agents"


def parser() -> Parser:
    """The parser of ``dimat run``: every setting of a run."""
    own = settings_parser(
        "dimat run [--preset paper] [--config FILE.yaml] [--SETTING VALUE ...]\n"
        "       dimat run --resume RUN [--max_wall_s S]"
    )
    own.short_help = partial(short_help, "dimat run", own, FIRST)
    return own


def as_resume(words: Sequence[str]) -> Sequence[str]:
    """``dimat run --resume RUN`` as ``dimat resume RUN``; any other command line as it is.

    Args:
        words: The words after ``dimat``.

    Raises:
        ConfigError: If there is no RUN.

    >>> as_resume(["run", "--max_wall_s", "60", "--resume", "runs/first"])
    ['resume', 'runs/first', '--max_wall_s', '60']
    >>> as_resume(["run", "--seed", "1"])
    ['run', '--seed', '1']
    """
    found = [k for k, word in enumerate(words) if word.partition("=")[0] == "--resume"]
    if not words or words[0] != "run" or not found:
        return words
    _, equals, folder = words[found[0]].partition("=")
    rest = [*words[1 : found[0]], *words[found[0] + 1 :]]
    if not equals and found[0] <= len(rest):
        folder = rest.pop(found[0] - 1)
    if not folder or folder.startswith("-"):
        raise ConfigError("setting 'resume' has no value: write --resume RUN, a run folder")
    return ["resume", folder, *rest]


def execute(settings: Namespace) -> None:
    """Run, and print the results and the run folder, in the process of rank 0 only.

    A run that ``torchrun`` started again resumes from its last checkpoint, if ``out`` is given.
    """
    config = config_of(settings)
    with importing():
        validate(config)
        from dimat.experiment.progress import LiveProgress
        from dimat.experiment.run import run, run_or_resume

    resumes = restarted() and config.out is not None
    progress = LiveProgress()
    try:
        with world_of(config) as world:
            result = (run_or_resume if resumes else run)(config, progress, world=world)
    finally:
        progress.close()
    if world.rank == 0:
        show(result)


def show(result: RunResult) -> None:
    """Print the results of a run and its folder."""
    from rich.console import Console

    from dimat.experiment.tables import results_table

    console = Console()
    console.print(results_table(result))
    console.print(f"run folder: {result.folder}", markup=False, highlight=False, soft_wrap=True)
