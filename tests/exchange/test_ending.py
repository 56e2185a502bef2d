"""A store that takes connections and never answers holds nobody up in the end."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable

from tests.exchange.halls import HOST, together

PROCESS = f"""
import sys, time
from dimat.cli.agent import _ending
from dimat.errors import ConfigError
from dimat.exchange.board import Board
from dimat.exchange.link import Rules
from dimat.exchange.links import Links, lingering
with _ending():
    links = Links(1, Board("{HOST}", int(sys.argv[1])), "{HOST}", Rules(timeout_s=5))
    for j in (0, 2, 3):
        links.to(j)
    time.sleep(0.3)
    begun = time.monotonic()
    links.close()
    print(time.monotonic() - begun < 2, links.lingering, lingering())
    exec(sys.argv[2])
"""


def test_an_agent_ends_at_once_with_its_own_exit_code_though_the_store_is_mute() -> None:
    cases = {"": 0, "raise ConfigError('no')": 2, "raise KeyboardInterrupt": 130, "1 / 0": 1}

    def check(port: int, end: str, code: int) -> Callable[[], None]:
        def work() -> None:
            command = [sys.executable, "-c", PROCESS, str(port), end]
            own = subprocess.run(command, capture_output=True, text=True, timeout=18)
            assert (own.returncode, own.stdout) == (code, "True True True\n"), own.stderr
            assert "terminate" not in own.stderr

        return work

    with socket.create_server((HOST, 0)) as listener:
        together([check(listener.getsockname()[1], *case) for case in cases.items()])
