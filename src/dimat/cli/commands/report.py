"""``dimat report``: write a page of plots from runs and comparisons."""

from __future__ import annotations

from jsonargparse import Namespace

from dimat.experiment.config.parse import Parser
from dimat.experiment.config.places import check_path

SUMMARY = "make a page of plots from runs and comparisons"


def parser() -> Parser:
    """The parser of ``dimat report``."""
    own = Parser(
        usage="dimat report RUN_OR_COMPARISON [...] --out FOLDER_OR_PAGE.html [--overwrite]",
        description="Write a page of plots and tables that opens from disk: a folder, or one file "
        "that needs no other, if --out ends in .html.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add("folders", nargs="+", type=str, help="of runs and comparisons, in the order to show them")
    add("--out", type=str, required=True, help="the folder or the .html file to write")
    add("--overwrite", action="store_true", help="replace an earlier report")
    return own


def execute(options: Namespace) -> None:
    """Write the report, and print the path of its page."""
    check_path("out", options.out, spare=16)
    for folder in options.folders:
        check_path("folders", folder)
    from dimat.tools.report.write import report

    index = report(options.folders, options.out, overwrite=options.overwrite)
    print(f"report: {index}")
