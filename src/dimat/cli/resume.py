"""``dimat resume``."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from dimat.cli.run import show
from dimat.experiment.settings import Parser

SUMMARY = "go on with a run that was stopped"


def parser() -> Parser:
    """Its options."""
    own = Parser(
        usage="dimat resume RUN",
        description="Go on with a run that was stopped, from its last checkpoint: on the CPU the "
        "numbers are those of a run that was never stopped.",
        allow_abbrev=False,
    )
    own.add_argument("folder", help="the run folder")
    return own


def execute(options: Namespace) -> None:
    """Go on, and print the table and the folder."""
    from dimat.experiment.display import LiveProgress
    from dimat.experiment.run import resume

    observer = LiveProgress()
    try:
        result = resume(Path(options.folder), observer)
    finally:
        observer.close()
    show(result)
