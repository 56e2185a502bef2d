"""The soak in its short form: each kind of fault strikes once, and nothing is left broken."""

from __future__ import annotations

import sys

import pytest
from tests.fork_server import ROOT, run


@pytest.mark.slow
def test_six_agents_outlive_every_kind_of_fault() -> None:
    soak = [sys.executable, "-m", "benchmarks.soak", "--short", "--minutes=60"]
    done = run(soak, cwd=ROOT, timeout=4000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults: 20:" in done.stdout
    assert done.stderr == ""
