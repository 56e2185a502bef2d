"""What docs/operations.md says one can start is started as it says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tests import fork_server
from tests.exchange.threads import randrange

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.mark.slow
def test_the_commands_of_the_page_check_a_run_and_ask_it(tmp_path: Path) -> None:
    host = f"127.{randrange(1, 255)}.{randrange(1, 255)}.{randrange(1, 255)}"
    text = PAGE.read_text("utf-8").replace("127.0.0.1", host)
    for name, content in re.findall(r"```\w+ title=(\S+)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(content)
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    patient = "--exchange.timeout_s=300"

    def start(line: str) -> fork_server.Process:
        return fork_server.start(
            shlex.split(line), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finished(process: fork_server.Process) -> tuple[int, str]:
        with process:
            out, _ = process.communicate(timeout=fork_server.LONG_S)
        return process.returncode, out

    checks = [start(f"{line} {patient}") for line in lines if line.endswith("--check")]
    for code, out in map(finished, checks):
        assert code == 0, out
        assert "settings, graph and model are alike" in out
    assert not (tmp_path / "runs").exists()

    first = start(f"{lines[0].removesuffix('--check')} {patient} --events events.jsonl")
    asks = [line for line in lines if line.startswith("dimat status")]
    while True:  # until it listens
        code, out = finished(start(asks[1]))
        answers = [json.loads(x) for x in out.splitlines() if x.startswith("{")]
        if answers[0]["status"]:
            break
        assert first.poll() is None
    assert code == 1
    assert answers[1]["why"] == "nobody listens there"
    second = start(f"{lines[1].removesuffix('--check')} {patient}")
    for process in (first, second):
        code, out = finished(process)
        assert code == 0, out
    events = [json.loads(x) for x in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {"neighbor", "merged", "trained"} <= {x["event"] for x in events}
    assert "plaintext, loopback" in (tmp_path / "runs/apart/agent-000/summary.json").read_text()
