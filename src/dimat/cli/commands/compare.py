"""``dimat compare``: compare methods over settings and seeds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Annotated

from jsonargparse import Namespace

from dimat.cli.launch import importing
from dimat.cli.options import SettingsLater
from dimat.errors import TrainingError
from dimat.experiment.config.parse import Parser
from dimat.experiment.config.places import check_path
from dimat.experiment.config.rules import Range, check
from dimat.tools.compare.read import Overrides, read_out, read_spec

SUMMARY = "compare methods over settings and seeds"
_OWN = ("methods", "seeds", "jobs", "out", "yes", "help")
Jobs = Annotated[int, Range(ge=1), Range(le=1000)]


def parser() -> Parser:
    """The parser of ``dimat compare``."""
    own = SettingsLater(
        _OWN,
        usage="dimat compare FILE.yaml [--methods A,B] [--seeds 0..4] [--grid.SETTING A,B] "
        "[--SETTING VALUE] [--OPTION VALUE ...]",
        description="Run methods at every point of a grid of settings, with every seed, and "
        "compare them: each run is of all methods, from the same pre-trained agents. The same "
        "command goes on where it was stopped. The file has settings as for 'dimat run --config', "
        "and may have a group 'compare' with methods, seeds and grid, which the options override.",
        epilog="--grid.SETTING A,B varies a setting; --SETTING VALUE sets it for all runs; "
        "'dimat run --help all' explains every setting.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add("base", type=str, help="a YAML file, such as configs/small/ring-by-class.yaml")
    add("--methods", type=str | None, default=None, help="the others are compared to the first")
    add("--seeds", type=str | None, default=None, help="such as 0..4, or 0,2,5")
    add("--jobs", type=int, default=1, help="runs at a time, each in a process of its own")
    add("--out", type=str | None, default=None, help="folder; runs/compare-NAME-OF-FILE if null")
    add("--yes", action="store_true", help="more than 1,000 runs are wanted")
    add("--given", type=dict, default={}, help=argparse.SUPPRESS)
    return own


def execute(options: Namespace) -> None:
    """Run the unfinished cells, and print the tables and the comparison folder."""
    path = check_path("base", options.base)
    check("jobs", options.jobs, Jobs)
    overrides = Overrides(options.methods, options.seeds, **options.given)
    spec = read_spec(path, overrides)
    out = check_path("out", options.out or spec.base.out or str(read_out(path)))
    from rich.console import Console

    with importing():
        from dimat.tools.compare.progress import LiveCells
        from dimat.tools.compare.run import compare
        from dimat.tools.compare.table import as_text, comparison_tables

    result = compare(spec, out, jobs=options.jobs, yes=options.yes, progress=LiveCells())
    console = Console()
    if console.is_terminal:
        console.print(comparison_tables(result.points), highlight=False)
    else:
        print(as_text(result.points), end="")
    console.print(f"comparison: {result.folder}", markup=False, highlight=False, soft_wrap=True)
    if result.failures:
        raise TrainingError(_failed(result.failures, spec.num_cells))


def _failed(failures: Mapping[str, str], cells: int) -> str:
    """One line that names all failed cells, each with its error."""
    each = "; ".join(f"cell '{name}': {error}" for name, error in failures.items())
    return f"{len(failures)} of {cells} cells failed, and the same command tries again: {each}"
