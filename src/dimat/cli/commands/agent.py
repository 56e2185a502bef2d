"""``dimat agent``: run one agent in a process of its own."""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from jsonargparse import Namespace
from rich.console import Console

from dimat.cli.helping import FIRST, short_help
from dimat.errors import DimatError
from dimat.experiment.config.parse import Parser, config_of, settings_parser
from dimat.experiment.config.places import check_path, endpoint
from dimat.experiment.config.rules import broken_rule
from dimat.experiment.config.validate import check_id, validate

SUMMARY = "run one agent in a process of its own, among others that may be missing"
_OWN = ("id", "store", "interface", "name", "faults")
_NAME = r"[\w.+:@-]{1,100}"


def parser() -> Parser:
    """The parser of ``dimat agent``: every setting of a run, the agent's number and the store."""
    own = settings_parser(
        usage="dimat agent --config FILE --id I --store HOST:PORT\n"
        "                   [--interface ADDRESS] [--SETTING VALUE ...]",
        description="Run one agent of a run, which goes on when neighbors are lost and takes them "
        "in when they come back. The same command after a crash goes on from its last checkpoint. "
        "For one trusted network: nothing that is sent is encrypted.",
    )
    add = own.add_argument
    add("--id", type=int, required=True, help="number of this agent, from 0")
    add("--store", type=str, required=True, help="HOST:PORT of 'dimat store'")
    add("--interface", type=str | None, default=None, help="as --exchange.interface")
    add("--name", type=str, default="dimat", help="of the run, where several share a store")
    add("--faults", type=str | None, default=None, help="JSON plan of faults to rehearse")
    own.short_help = partial(short_help, "dimat agent", own, _first())
    return own


def _first() -> dict[str, str]:
    """The options that ``--help`` shows first; a single agent runs no controls."""
    own = {
        "id": "number of this agent, from 0",
        "store": "HOST:PORT of 'dimat store'",
        "interface": "address that others reach it at",
    }
    return own | {name: told for name, told in FIRST.items() if name != "controls"}


def execute(settings: Namespace) -> None:
    """Run one agent, and print its results and its run folder."""
    atexit.register(gc.freeze)  # else the last collection walks all of PyTorch: 1.3 s of CPU
    own = {name: settings.pop(name) for name in _OWN}
    if own["interface"] is not None:
        settings["exchange.interface"] = own["interface"]
    config = config_of(settings)
    meeting = endpoint("store", own["store"])
    plan = None if own["faults"] is None else check_path("faults", own["faults"])
    if not re.fullmatch(_NAME, own["name"]):
        raise broken_rule("name", own["name"], "1 to 100 letters, digits and . _ - + : @")
    check_id(config, own["id"])
    validate(config)
    from dimat.cli.stop import stoppable
    from dimat.experiment.progress import LiveProgress
    from dimat.experiment.single_agent.run import Rendezvous, run_agent
    from dimat.experiment.tables import single_agent_table

    rehearse = None
    if plan:
        from dimat.testing.faults import Faults

        rehearse = Faults.load(plan).rehearse
    progress = LiveProgress()
    with _ending():
        try:
            with stoppable():
                result = run_agent(
                    config,
                    own["id"],
                    Rendezvous(*meeting, own["name"]),
                    progress,
                    rehearse=rehearse,
                )
        finally:
            progress.close()
        console = Console()
        console.print(single_agent_table(result))
        folder = f"run folder: {result.folder}"
        console.print(folder, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _ending() -> Iterator[None]:
    """End the process with its exit code when the block has ended, even if a link hangs."""
    code = 1
    try:
        yield
        code = 0
    except KeyboardInterrupt:
        code = 130
        raise
    except DimatError as error:
        code = 2 if isinstance(error, ValueError) else 1
        raise
    finally:
        atexit.register(_leave, code)  # after everything is printed


def _leave(code: int) -> None:
    """Exit at once if a store does not answer: waiting for it would end in an abort."""
    from dimat.exchange.network.links import lingering

    if lingering():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
