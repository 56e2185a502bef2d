"""``dimat resume``: resume a run that was stopped."""

from __future__ import annotations

from jsonargparse import Namespace

from dimat.cli.commands.run import show
from dimat.cli.launch import importing, world_of
from dimat.experiment.config.parse import Parser
from dimat.experiment.config.places import check_path

SUMMARY = "go on with a run that was stopped"


def parser() -> Parser:
    """The parser of ``dimat resume``."""
    own = Parser(
        usage="dimat resume RUN [--max_wall_s S]",
        description="Go on with a run that was stopped, from its last checkpoint: on the CPU the "
        "numbers are those of a run that was never stopped.",
        epilog="Exit code 3 says that it stopped at max_wall_s with more to do: "
        "'until dimat resume RUN --max_wall_s 3000; do [ $? = 3 ] || break; done'.",
        allow_abbrev=False,
    )
    own.add_argument("run", metavar="RUN", help="the run folder")
    limit = "stop again at the first checkpoint after so many seconds; null: go on to the end"
    own.add_argument("--max_wall_s", type=float | None, default=None, metavar="S", help=limit)
    return own


def execute(options: Namespace) -> None:
    """Resume a run, and print its results and folder, in the process of rank 0 only."""
    folder, limit = check_path("run", options.run), options.max_wall_s
    with importing():
        from dimat.experiment.progress import LiveProgress
        from dimat.experiment.run import begun, resume

    progress = LiveProgress()
    try:
        with world_of(begun(folder, limit)) as world:
            result = resume(folder, progress, world=world, max_wall_s=limit)
    finally:
        progress.close()
    if world.rank == 0:
        show(result)
