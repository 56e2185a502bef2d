"""``dimat run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from dimat.cli.launch import crew_of, hush, restarted
from dimat.experiment.settings import Parser, config_of, settings_parser

if TYPE_CHECKING:
    from dimat.experiment.result import RunResult

SUMMARY = "train, merge and evaluate agents"


def parser() -> Parser:
    """Every setting of a run."""
    return settings_parser()


def execute(settings: Namespace) -> None:
    """Run, and print the table and the folder: in the first process, if ``torchrun`` has several.

    What ``torchrun`` starts again goes on from its last checkpoint, where ``out`` says which it is.
    """
    hush()
    from dimat.experiment.validate import validate

    config = config_of(settings)
    validate(config)
    from dimat.experiment.display import LiveProgress
    from dimat.experiment.run import run, run_or_resume

    goes_on = restarted() and config.out is not None
    observer = LiveProgress()
    try:
        with crew_of(config) as crew:
            result = (run_or_resume if goes_on else run)(config, observer, crew=crew)
    finally:
        observer.close()
    if crew.rank == 0:
        show(result)


def show(result: RunResult) -> None:
    """The table, and where the run folder is."""
    from dimat.experiment.display import results_table

    console = Console()
    console.print(results_table(result))
    console.print(f"run folder: {result.folder}", markup=False, highlight=False, soft_wrap=True)
