"""What docs/integrations.md says one can start is started as it says."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tests import fork_server
from tests.exchange.threads import loopback

TEXT = (fork_server.ROOT / "docs" / "integrations.md").read_text("utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]
PACKAGES = ("transformers", "lightning", "accelerate")


def test_there_are_two_agents_of_each() -> None:
    assert [f"python with_{name}.py {i}" for name in PACKAGES for i in (0, 1)] == COMMANDS


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_the_agents_of_the_page_merge_as_often_as_they_should(package: str, tmp_path: Path) -> None:
    for needed in {package, "accelerate"} if package == "transformers" else {package}:
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"needs {needed}")
    host = loopback()  # each test has an address of its own
    for name, text in re.findall(r"```\w+ title=(\S+)\n(.*?)```", TEXT, re.DOTALL):
        (tmp_path / name).write_text(text.replace("127.0.0.1", host))
    started = [
        fork_server.start(
            shlex.split(line), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for line in COMMANDS
        if f"with_{package}.py" in line
    ]
    for agent, process in enumerate(started):
        with process:
            out, _ = process.communicate(timeout=fork_server.LONG_S)
        assert process.returncode == 0, out
        assert f"agent {agent}: 3 rounds, heard {[[1 - agent]] * 3}" in out
