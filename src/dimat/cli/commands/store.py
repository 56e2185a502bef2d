"""The command ``dimat store``."""

from __future__ import annotations

import contextlib
import threading

from jsonargparse import Namespace

from dimat.experiment.config.parse import Parser
from dimat.experiment.config.places import endpoint

SUMMARY = "host the store where agents find each other"


def parser() -> Parser:
    """Parser of the options of the command."""
    own = Parser(
        usage="dimat store --listen HOST:PORT",
        description="Host the small store where agents find each other, until it is stopped. No "
        "data and no model passes through it; agents that have found each other go on without it. "
        "For one trusted network: it asks nobody who they are.",
        allow_abbrev=False,
    )
    own.add_argument(
        "--listen", type=str, required=True, help="HOST:PORT: an address of this machine"
    )
    return own


def execute(options: Namespace) -> None:
    """Host the store until interrupted."""
    host, port = endpoint("listen", options.listen, any_port=True)
    from dimat.cli.stop import stoppable
    from dimat.exchange.network.rendezvous import serve

    with stoppable(), contextlib.suppress(KeyboardInterrupt):
        store = serve(host, port)
        print(f"store: {host}:{store.port}", flush=True)  # whoever reads it may stop it
        threading.Event().wait()
