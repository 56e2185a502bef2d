"""What holds for every test: none depends on how fast the machine is, and Ctrl-C is what it is.

Examples in the documentation run in an empty folder of their own.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests import fork_server

from dimat.identity import require_tls13

# Modules without examples, which import packages that may not be there.
collect_ignore_glob = ["src/dimat/integrations/*", "tests/integrations/*_agent.py"]

# Before PyTorch is loaded: two workers of two threads each would wait for each other on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

require_tls13()  # before a test imports gRPC by itself

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that tests start.

    Workers of pytest-xdist fork their processes from one server.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        fork_server.share()


@pytest.fixture(autouse=True)
def _examples_write_nowhere_else(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
