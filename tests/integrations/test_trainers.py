"""Agents in the trainers that people use, two processes each, with the real packages."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import fork_server
from tests.exchange.threads import loopback, randrange

HERE = Path(__file__).parent
AGENTS = range(2)
CHECKPOINT = {"transformers": "agent-{}/checkpoint-3", "lightning": "agent-{}/step=3.ckpt"}
NEEDED = {"transformers": ("transformers", "accelerate"), "lightning": ("lightning",)}

pytestmark = pytest.mark.slow  # each process imports such a package, for some seconds


@pytest.fixture(params=CHECKPOINT)
def trainer(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A trainer's package, with the addresses of two agents in the folder of the test."""
    name = str(request.param)
    for package in NEEDED[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    host, port = loopback(), 20000 + 2 * randrange(5000)
    lines = [f'{i}: {{address: "{host}:{port + i}"}}\n' for i in AGENTS]
    (tmp_path / "peers.yaml").write_text("".join(lines))
    return name


def train(trainer: str, folder: Path, steps: int, checkpoint: str = "") -> list[Any]:
    """The rounds of both agents, which train at once."""
    script = str(HERE / f"{trainer}_agent.py")
    started = []
    for i in AGENTS:
        words = [sys.executable, script, str(folder), str(i), str(steps)]
        words += [str(folder / checkpoint.format(i))] * bool(checkpoint)
        with (folder / f"{i}.log").open("w") as log, (folder / f"{i}.json").open("w") as out:
            started.append(fork_server.start(words, stdout=out, stderr=log))
    for i, process in enumerate(started):
        with process:
            assert process.wait(fork_server.LONG_S) == 0, (folder / f"{i}.log").read_text()
    said = [(folder / f"{i}.json").read_text().splitlines()[-1] for i in AGENTS]
    return [json.loads(line)["history"] for line in said]


def states(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / f"{i}.pt", weights_only=True) for i in AGENTS]


def parameters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All but what BatchNorm has seen, which is of each agent's own data."""
    return {name: x for name, x in state.items() if "running" not in name}


def test_agents_in_a_trainer_merge_and_go_on_from_its_checkpoints(
    trainer: str, tmp_path: Path
) -> None:
    assert train(trainer, tmp_path, 6) == [[[k, [1 - i]] for k in (1, 2, 3)] for i in AGENTS]
    ours, theirs = states(tmp_path)
    torch.testing.assert_close(parameters(ours), parameters(theirs), rtol=0, atol=1e-5)

    went_on = train(trainer, tmp_path, 6, CHECKPOINT[trainer])
    assert went_on == [[[k, [1 - i]] for k in (2, 3)] for i in AGENTS]
    again, theirs = states(tmp_path)
    torch.testing.assert_close(parameters(again), parameters(theirs), rtol=0, atol=1e-5)
    if trainer == "transformers":  # which finds its place among the batches again
        torch.testing.assert_close(again, ours, rtol=0, atol=1e-6)
