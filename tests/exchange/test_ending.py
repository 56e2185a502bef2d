"""A store that takes connections and never answers holds nobody up in the end."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

from tests.exchange.threads import HOST, together
from tests.fork_server import LONG_S, run

PROCESS = f"""
import sys, time
from dimat.cli.commands.agent import _ending
from dimat.errors import ConfigError
from dimat.exchange.network import rendezvous as board
from dimat.exchange.network.link import Rules
from dimat.exchange.network.links import Links, lingering
asked, store = [], board.TCPStore
board.CONNECT_S = FOREVER = 10**5  # who waits for the store, or for silence, does not end
board.TCPStore = lambda *args: asked.append(1) or store(*args)
with _ending():
    there = board.Directory("{HOST}", int(sys.argv[1]))
    links = Links(1, there, "{HOST}", Rules(timeout_s=FOREVER))
    for j in (0, 2, 3):
        links.to(j)
    while len(asked) < 3:
        time.sleep(0.01)
    links.close()
    print(links.lingering, lingering())
    exec(sys.argv[2])
"""


def test_an_agent_ends_with_its_own_exit_code_though_the_store_is_mute() -> None:
    cases = {"": 0, "raise ConfigError('no')": 2, "raise KeyboardInterrupt": 130, "1 / 0": 1}

    def check(port: int, end: str, code: int) -> Callable[[], None]:
        def work() -> None:
            own = run([sys.executable, "-c", PROCESS, str(port), end])
            assert (own.returncode, own.stdout) == (code, "True True\n"), own.stderr
            assert "terminate" not in own.stderr

        return work

    with socket.create_server((HOST, 0)) as listener:
        works = [check(listener.getsockname()[1], *case) for case in cases.items()]
        together(works, LONG_S)
