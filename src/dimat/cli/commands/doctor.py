"""``dimat doctor``: say what is installed here, and whether it works."""

from __future__ import annotations

import json
from dataclasses import asdict

from jsonargparse import Namespace

from dimat.errors import DimatError
from dimat.experiment.config.parse import Parser

SUMMARY = "say what is installed here, and test whether it works"
_MARKS = {True: ("ok", "green"), False: ("FAILED", "bold red"), None: ("", "")}


def parser() -> Parser:
    """The parser of ``dimat doctor``."""
    own = Parser(
        usage="dimat doctor [--json]",
        description="Say what is installed here (versions, devices, extras) and test in seconds "
        "whether it works: find a symmetry, merge a permuted copy, exchange between two agents "
        "with certificates on this machine. The exit code is 1 if something does not.",
        allow_abbrev=False,
    )
    own.add_argument("--json", action="store_true", help="print all of it as JSON, for programs")
    return own


def execute(options: Namespace) -> None:
    """Look at everything, and print a row for each.

    Raises:
        DimatError: If something is not as it must be.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from dimat.tools.doctor import look_at_everything

    with Console(stderr=True).status("looking"):
        findings = list(look_at_everything())
    failed = [finding.name for finding in findings if finding.ok is False]
    if options.json:
        print(json.dumps({"ok": not failed, "findings": [asdict(x) for x in findings]}, indent=1))
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("", "what", "found", ""):
            table.add_column(column, overflow="fold")
        last = ""
        for x in findings:
            row = ("" if x.group == last else x.group, x.name, x.found)
            table.add_row(*map(Text, row), Text(*_MARKS[x.ok]), end_section=False)
            last = x.group
        Console().print(table)
    if failed:
        raise DimatError(f"{len(failed)} of what was looked at failed: {', '.join(failed)}")
