"""``dimat status``: ask all agents of a run how they are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from jsonargparse import Namespace

from dimat.cli.options import add_protection, check_protection
from dimat.errors import ExchangeError
from dimat.experiment.config.parse import Parser
from dimat.experiment.config.places import check_path
from dimat.experiment.config.rules import broken_rule

SUMMARY = "ask all agents of a run how they are"


def parser() -> Parser:
    """The parser of ``dimat status``."""
    own = Parser(
        usage="dimat status PEERS (--certificates FOLDER | --insecure | --trusted-network)\n"
        "                    [--name RUN] [--timeout S] [--json]",
        description="Ask every agent of peers.yaml that has an address how it is: its round and "
        "accuracy, whom it heard, what was last amiss. An observer's certificate is enough. The "
        "exit code is 1 if one does not answer.",
        allow_abbrev=False,
    )
    add = own.add_argument
    add("peers", type=str, help="peers.yaml: the addresses of all agents")
    add_protection(own)
    add("--timeout", type=float, default=5.0, metavar="S", help="seconds that each has to answer")
    add("--json", action="store_true", help="print an object for each agent, one a line")
    return own


def execute(options: Namespace) -> None:
    """Ask all agents, and print a row for each.

    Raises:
        ExchangeError: If one that has an address does not answer.
    """
    path = check_path("peers", options.peers)
    check_protection(options.as_dict())
    if not 0 < options.timeout <= 3600:
        raise broken_rule("timeout", options.timeout, "> 0 and <= 3600")
    from rich.console import Console

    from dimat.cli.agents import status_table
    from dimat.exchange.network.peers import PeersFile
    from dimat.exchange.network.security import require_protection, security_of
    from dimat.exchange.network.status import ask

    folder = None if options.certificates is None else Path(options.certificates)
    trusted = options.trusted_network
    security = security_of(folder, options.name, None, trusted_network=trusted)
    addresses = PeersFile(path).agents
    require_protection(
        security.identity,
        [address for address in addresses.values() if address],
        insecure=options.insecure,
        trusted_network=trusted,
    )
    answers = ask(security, addresses, options.timeout)
    if options.json:
        print("\n".join(json.dumps(asdict(answer)) for answer in answers))
    else:
        Console().print(status_table(security.run, answers))
    silent = [x.agent for x in answers if x.address is not None and x.status is None]
    if silent:
        those = ", ".join(map(str, silent))
        raise ExchangeError(f"{len(silent)} of {len(answers)} agents do not answer: {those}")
