"""What docs/distributed.md says one can start is started as it says."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import fork_server
from tests.exchange.threads import loopback

from dimat.exchange.network.endpoint import Endpoint
from dimat.exchange.network.peers import FixedAddresses
from dimat.exchange.network.security import Security

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
TEXT = PAGE.read_text("utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]
HERE = "127.0.0.1"  # on the page; each test has an address of its own in its place
SITES = range(3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    address = loopback()
    for name, text in re.findall(r"```\w+ title=(\S+)\n(.*?)```", TEXT, re.DOTALL):
        (tmp_path / name).write_text(text.replace(HERE, address))
    return tmp_path


def start(command: str, folder: Path) -> fork_server.Process:
    program, *rest = shlex.split(command)
    words = {"torchrun": [sys.executable, "-m", "torch.distributed.run"]}.get(program, [program])
    return fork_server.start(
        [*words, *rest], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finished(process: fork_server.Process) -> str:
    with process:
        out, _ = process.communicate(timeout=fork_server.LONG_S)
    assert process.returncode == 0, out
    return out


def together(each: list[str], folder: Path) -> list[str]:
    """What commands say that are started one after another and run at once."""
    return [finished(process) for process in [start(command, folder) for command in each]]


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


def test_three_sites_come_from_nothing_to_one_merged_model(folder: Path) -> None:
    for line in commands("dimat certificates"):
        finished(start(line, folder))
    for line in commands("cp "):
        subprocess.run(shlex.split(line), cwd=folder, check=True)
    agents = [line for line in commands("dimat agent") if "--certificates" in line]
    assert len(agents) == len(SITES)
    for agent, out in enumerate(together(agents, folder)):
        assert f"run folder: runs/apart/agent-{agent:03d}" in out
    models = [final(folder / "runs" / "apart", agent) for agent in SITES]
    for other in models[1:]:  # each adds up its own first, so CPUs may round otherwise
        torch.testing.assert_close(other, models[0], rtol=1e-5, atol=1e-6)


def test_agents_of_one_machine_need_no_certificates(folder: Path) -> None:
    [command] = [line for line in commands("dimat agent") if "--insecure" in line]
    together([command.replace("--id 0", f"--id {i}") for i in SITES], folder)
    for agent in SITES:
        assert final(folder / "runs" / "plain", agent)


def test_without_certificates_or_a_word_that_none_are_wanted_no_agent_starts(folder: Path) -> None:
    [command] = [line for line in commands("dimat agent") if "--insecure" in line]
    with start(command.replace("--insecure ", ""), folder) as process:
        out, _ = process.communicate(timeout=fork_server.LONG_S)
    assert process.returncode == 2
    assert "nothing says how to protect what agents say" in out


def test_the_loop_of_the_page_runs_without_torchrun(folder: Path) -> None:
    agents = commands("python loop.py")
    assert len(agents) == len(SITES)
    for agent, out in enumerate(together(agents, folder)):
        others = [j for j in SITES if j != agent]
        assert f"agent {agent}: 3 rounds, heard {[others] * 3}" in out


def test_an_agent_listens_on_its_own_address_and_nowhere_else() -> None:
    own = loopback()
    agent = Endpoint(0, FixedAddresses(), f"{own}:0", Security())
    try:
        port = int(str(agent.address).rpartition(":")[2])
        with socket.create_connection((own, port), fork_server.LONG_S):
            pass
        for other in {loopback(), _outer_address()} - {own, None}:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((str(other), port), fork_server.LONG_S)
    finally:
        agent.close()


def _outer_address() -> str | None:
    """An address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # nothing is sent
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def final(out: Path, agent: int) -> dict[str, object]:
    """The state in an agent's folder, all of whose exchanges counted."""
    own = out / f"agent-{agent:03d}"
    last = json.loads((own / "metrics.jsonl").read_text().splitlines()[-1])
    rounds = last["round"]
    assert rounds > 0
    assert last["exchanged"] == {str(j): rounds for j in SITES if j != agent}
    assert not (own / "incidents.jsonl").exists()
    return load_file(own / "states" / f"agent-{agent:03d}.safetensors")
