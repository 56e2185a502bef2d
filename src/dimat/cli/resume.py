"""``dimat resume``."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from dimat.cli.launch import crew_of, hush
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
    """Go on, and print the table and the folder: in the first process, if there are several."""
    hush()
    from dimat.experiment.display import LiveProgress
    from dimat.experiment.run import begun, resume

    folder = Path(options.folder)
    observer = LiveProgress()
    try:
        with crew_of(begun(folder)) as crew:
            result = resume(folder, observer, crew=crew)
    finally:
        observer.close()
    if crew.rank == 0:
        show(result)
