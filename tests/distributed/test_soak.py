"""The soak in its short form: each kind of fault strikes once, and nothing is left broken."""

from __future__ import annotations

import subprocess
import sys

from tests.distributed.nursery import ROOT


def test_six_agents_outlive_every_kind_of_fault() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--short", "--minutes=9"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults: 13:" in done.stdout
    assert done.stderr == ""
