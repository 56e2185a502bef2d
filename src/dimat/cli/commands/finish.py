"""``dimat finish``: one network of all agents of a run, with a closed-form head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from dimat.cli.launch import importing
from dimat.errors import ConfigError, writing
from dimat.experiment.config.parse import Parser
from dimat.experiment.config.places import check_path

if TYPE_CHECKING:
    from rich.table import Table

    from dimat.tools.finish import Finished

SUMMARY = "make one network of a run, with a closed-form head"


def parser() -> Parser:
    """The parser of ``dimat finish``."""
    own = Parser(
        usage="dimat finish RUN [--out FILE.safetensors] [--overwrite]",
        description="Sum up the agents of a run that is done, without training in between, and "
        "compute the head of that one network by ridge regression, from sums over each agent's own "
        "images. Beside it the same for every control, and for a network that was never trained.",
        allow_abbrev=False,
    )
    own.add_argument("run", metavar="RUN", help="the run folder")
    own.add_argument("--out", type=str | None, default=None, help="file for the network")
    own.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    return own


def execute(options: Namespace) -> None:
    """Finish a run, print what that is worth, and write the network."""
    folder = check_path("run", options.run)
    out = None if options.out is None else Path(check_path("out", options.out))
    if out is not None and out.exists() and not options.overwrite:
        raise ConfigError(f"setting 'out': {out} exists: use another, or --overwrite")
    from rich.console import Console

    with importing():
        from dimat.experiment.progress import LiveProgress
        from dimat.state import save_state
        from dimat.tools.finish import finish

    progress = LiveProgress()
    try:
        found = finish(folder, progress)
    finally:
        progress.close()
    Console().print(_table(found))
    if out is not None:
        partial = out.with_name(f"{out.name}.partial")
        with writing(out):
            save_state(found[0].state, partial)
            partial.replace(out)
        print(f"network: {out}")


def _table(found: list[Finished]) -> Table:
    from rich import box
    from rich.table import Table

    from dimat.experiment.tables import percent
    from dimat.tools.format import human_bytes

    table = Table(
        title="Test accuracy in %",
        caption="agents: as the run left them, on average · mean: of their networks, one for all · "
        "closed-form head: of that network's features\n"
        f"all agents together send {human_bytes(found[0].sent_bytes)} for it",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        min_width=74,
    )
    table.add_column("method")
    for name in ("agents", "mean", "closed-form head", "its ridge"):
        table.add_column(name, justify="right")
    for own in found:
        values = (own.agents, own.mean, own.head)
        table.add_row(own.name, *map(percent, values), f"{own.ridge:g}")
    return table
