"""``dimat … | head``: who reads the output may go away early, and no command complains of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests import fork_server

from dimat.cli import main

CLOSED = 128 + 13  # SIGPIPE, as shells say it
COMMANDS = {
    "help": ["--help"],  # printed by argparse
    "version": ["--version"],
    "json": ["doctor", "--json"],  # by print
    "table": ["topology", "ring", "--agents", "5"],  # by rich
    "certificates": ["certificates", "init", "--run", "r", "--out", "ca"],
}


def ended(words: list[str], folder: Path, *, errors_too: bool = False) -> tuple[int, bytes]:
    """Exit code and errors of a command whose output nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dimat", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{fork_server.ROOT / 'src'}", "PYTHONUNBUFFERED": ""},
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write if errors_too else subprocess.PIPE,
            timeout=fork_server.LONG_S,
        )
    finally:
        os.close(write)
    return done.returncode, done.stderr or b""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_that_was_closed_ends_a_command_without_a_word(name: str, tmp_path: Path) -> None:
    assert ended(COMMANDS[name], tmp_path) == (CLOSED, b"")


def test_errors_into_a_closed_pipe_end_a_command_too(tmp_path: Path) -> None:
    assert ended(["nonsense"], tmp_path, errors_too=True) == (CLOSED, b"")
    code, err = ended(["nonsense"], tmp_path)
    assert code == 2  # nothing was to be written
    assert err.startswith(b"dimat: error: unknown command 'nonsense'")


def test_without_any_standard_output_a_command_does_its_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", None)
    assert main(COMMANDS["certificates"]) == 0
    assert (tmp_path / "ca" / "ca.pem").exists()
