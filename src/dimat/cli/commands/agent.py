"""``dimat agent``: run one agent in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from dimat.cli.helping import FIRST, short_help
from dimat.cli.launch import importing
from dimat.cli.options import add_protection, check_protection
from dimat.errors import ExchangeError
from dimat.experiment.config.parse import Parser, config_of, settings_parser
from dimat.experiment.config.places import check_path, endpoint
from dimat.experiment.config.validate import check_id, validate
from dimat.text import counted

if TYPE_CHECKING:
    from rich.console import Console

    from dimat.exchange.network.site import AgentSite
    from dimat.experiment.single_agent.check import Finding

SUMMARY = "run one agent in a process of its own, among others that may be missing"
_SITE = ("peers", "certificates", "listen", "insecure", "trusted_network", "name")
_OWN = ("id", "check", "faults", "metrics", "events", *_SITE)


def parser() -> Parser:
    """The parser of ``dimat agent``: every setting of a run, the agent's number and its site."""
    own = settings_parser(
        usage="dimat agent --config FILE --id I --peers FILE --certificates FOLDER\n"
        "                   [--listen HOST:PORT] [--SETTING VALUE ...]",
        description="Run one agent, among others that may be lost and come back, as it may itself.",
    )
    add = own.add_argument
    add("--id", type=int, required=True, help="number of this agent, from 0")
    add("--peers", type=str, required=True, help="peers.yaml: the addresses of all agents")
    add_protection(own)
    add(
        "--listen",
        type=str | None,
        default=None,
        help="HOST:PORT, if others reach it at another address than it has",
    )
    add("--check", action="store_true", help="see whether it and all neighbors could run, and end")
    told = "HOST:PORT where Prometheus reads how it is, without certificates"
    add("--metrics", type=str | None, default=None, metavar="HOST:PORT", help=told)
    told = "file that each event is added to as a line of JSON; - for standard output"
    add("--events", type=str | None, default=None, metavar="FILE", help=told)
    add("--faults", type=str | None, default=None, help="JSON plan of faults to rehearse")
    own.short_help = partial(short_help, "dimat agent", own, _first())
    return own


def _first() -> dict[str, str]:
    """The options that ``--help`` shows first: the site's, and fewer of those that all share."""
    own = {
        "id": "number of this agent, from 0",
        "peers": "peers.yaml: the addresses of all agents",
        "certificates": "folder of its certificate and key",
        "insecure": "plaintext, on this machine alone",
        "trusted-network": "plaintext, which the network may read",
        "check": "look whether all could run, and end",
        "metrics": "where Prometheus reads how it is",
        "events": "file of what happens; - for stdout",
    }
    left_out = ("controls", "pretrain_epochs", "local_epochs", "optimizer.lr", "seed")
    settings = {name: told for name, told in FIRST.items() if name not in left_out}
    return own | settings | {"out": "its folder is in it; runs/apart"}


def execute(settings: Namespace) -> None:
    """Run one agent, and print its results and its run folder.

    Raises:
        ExchangeError: If all its neighbors were lost in every round.
    """
    own = {name: settings.pop(name) for name in _OWN}
    config = config_of(settings)
    _check(own)
    check_id(config, own["id"])
    site, rehearse = _site(own), None
    site.security(own["id"])
    site.addresses(own["id"], [])
    with importing():
        validate(config, apart=True)
        from rich.console import Console

        from dimat.cli.stop import stoppable
        from dimat.experiment.progress import LiveProgress
        from dimat.experiment.single_agent.run import check_agent, run_agent
        from dimat.experiment.tables import single_agent_table

    if own["faults"] is not None:
        from dimat.testing.faults import Faults

        rehearse = Faults.load(Path(own["faults"])).rehearse
    progress = LiveProgress()
    try:
        with stoppable():
            if own["check"]:
                found = check_agent(config, own["id"], site, progress)
            else:
                asked = {"metrics": own["metrics"], "events": own["events"]}
                result = run_agent(config, own["id"], site, progress, rehearse=rehearse, **asked)
    finally:
        progress.close()
    console = Console()
    if own["check"]:
        _tell(console, own["id"], found)
        return
    console.print(single_agent_table(result))
    folder = f"run folder: {result.folder}"
    console.print(folder, markup=False, highlight=False, soft_wrap=True)
    if result.incidents and result.merged is None and not any(result.exchanged.values()):
        raise ExchangeError(
            f"agent {result.agent} merged with nobody in {counted(config.rounds, 'round')}, it has "
            f"only trained: {result.folder / 'incidents.jsonl'} says why"
        )


def _tell(console: Console, agent: int, found: Sequence[Finding]) -> None:
    """Print what a check found.

    Raises:
        ExchangeError: If something is to be mended.
    """
    from dimat.cli.agents import check_table

    console.print(check_table(agent, found))
    amiss = [own.what for own in found if own.grade == "mend"]
    if amiss:
        raise ExchangeError(f"agent {agent} could not run as it should; mend: {'; '.join(amiss)}")


def _check(own: dict[str, object]) -> None:
    """Refuse options that nobody means, before PyTorch is imported."""
    check_path("peers", str(own["peers"]))
    for name in ("faults", "events"):
        if own[name] is not None:
            check_path(name, str(own[name]))
    if own["metrics"] is not None:
        endpoint("metrics", str(own["metrics"]), any_port=True)
    check_protection(own)
    if own["listen"] is not None:
        endpoint("listen", str(own["listen"]), any_port=True)


def _site(own: dict[str, Any]) -> AgentSite:
    """The site that the options describe."""
    from dimat.exchange.network.site import AgentSite

    folder = own["certificates"]
    return AgentSite(
        Path(own["peers"]),
        None if folder is None else Path(folder),
        own["listen"],
        own["insecure"],
        own["trusted_network"],
        own["name"],
    )
