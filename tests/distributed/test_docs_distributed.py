"""What docs/distributed.md says one can start is started as it says."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import fork_server

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
TEXT = PAGE.read_text("utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    for name, text in re.findall(r"```\w+ title=(\S+)\n(.*?)```", TEXT, re.DOTALL):
        (tmp_path / name).write_text(text)
    return tmp_path


def start(command: str, folder: Path) -> fork_server.Process:
    program, *rest = shlex.split(command)
    words = {"torchrun": [sys.executable, "-m", "torch.distributed.run"], "dimat": ["dimat"]}
    return fork_server.start(
        [*words[program], *rest], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finished(process: fork_server.Process) -> str:
    with process:
        out, _ = process.communicate(timeout=fork_server.LONG_S)
    assert process.returncode == 0, out
    return out


def commands(beginning: str) -> list[str]:
    return [line for line in COMMANDS if line.startswith(beginning)]


@pytest.mark.slow
def test_torchrun_runs_the_config_of_the_page(folder: Path) -> None:
    [command] = [line for line in commands("torchrun") if "dimat run" in line]
    assert "run folder: runs/two-processes" in finished(start(command, folder))


@pytest.mark.slow
def test_torchrun_runs_the_loop_of_the_page(folder: Path) -> None:
    [command] = [line for line in commands("torchrun") if "loop.py" in line]
    # its processes without the seconds of their imports; above they are started from nothing
    quick = command.replace("torchrun", "torchrun --run-path --start-method fork")
    out = finished(start(quick.replace("loop.py", str(folder / "loop.py")), folder))
    for agent, others in enumerate(([1, 2], [0, 2], [0, 1])):
        assert f"agent {agent}: 3 rounds, heard {[others] * 3}" in out


@pytest.fixture
def store(folder: Path) -> Iterator[str]:
    """The store of the page, on a port that is free here."""
    [command] = commands("dimat store")
    with start(command.replace(":29400", ":0"), folder) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.strip().removeprefix("store: ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(fork_server.LONG_S) == 0


def test_agents_of_the_page_find_each_other_through_its_store(folder: Path, store: str) -> None:
    [command] = commands("dimat agent")
    command = command.replace("127.0.0.1:29400", store)
    agents = [start(command.replace("--id 0", f"--id {i}"), folder) for i in range(4)]
    for agent, process in enumerate(agents):
        assert f"run folder: runs/apart/agent-{agent:03d}" in finished(process)


def test_the_store_listens_on_the_given_address_only(store: str) -> None:
    host, _, port = store.rpartition(":")
    with socket.create_connection((host, int(port)), fork_server.LONG_S):
        pass
    for other in {"127.0.0.2", _outer_address()} - {host, None}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((str(other), int(port)), fork_server.LONG_S)


def _outer_address() -> str | None:
    """An address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # nothing is sent
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address
