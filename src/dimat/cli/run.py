"""``dimat run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from dimat.experiment.settings import Parser, config_of, settings_parser

if TYPE_CHECKING:
    from dimat.experiment.result import RunResult

SUMMARY = "train, merge and evaluate agents"


def parser() -> Parser:
    """Every setting of a run."""
    return settings_parser()


def execute(settings: Namespace) -> None:
    """Run, and print the table and the folder."""
    from dimat.experiment.validate import validate

    config = config_of(settings)
    validate(config)
    from dimat.experiment.display import LiveProgress
    from dimat.experiment.run import run

    observer = LiveProgress()
    try:
        result = run(config, observer)
    finally:
        observer.close()
    show(result)


def show(result: RunResult) -> None:
    """The table, and where the run folder is."""
    from dimat.experiment.display import results_table

    console = Console()
    console.print(results_table(result))
    console.print(f"run folder: {result.folder}", markup=False, highlight=False, soft_wrap=True)
