"""What processes cost: the time of a round for W ranks, and of a step that does not exchange.

.venv/bin/python -m benchmarks.cluster [--small]

Round time: the same run (N = 8 agents, cnn on digits, one thread a rank) in one process and under
torchrun with W = 1, 2, 4 ranks, interleaved; medians of the seconds of rounds, by rank 0's metrics
file. Ratios are to W = 1. On a machine of C cores no more than C can be won.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.aims import beside_aim
from torch import nn

import dimat

AGENTS, WORLDS = 8, (1, 2, 4)


def seconds_a_round(world: int, rounds: int, folder: Path) -> float:
    """Wall time of one round: that of a run less that of a run of no rounds, by their summaries."""
    out = folder / f"{world}-{time.monotonic_ns()}"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world)),
        *("-m", "dimat", "run", "--agents", str(AGENTS), "--model", "cnn", "--threads", "1"),
        *("--rounds", str(rounds), "--pretrain_epochs", "1", "--local_epochs", "4"),
        *("--data.split", "iid", "--controls", "[]", "--out", str(out)),
        *("--eval_every", str(rounds), "--checkpoint.every", "0", "--method", "wa"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wall_s: float = json.loads((out / "summary.json").read_text())["wall_s"]
    return wall_s / rounds


def alone(folder: Path) -> Path:
    """Addresses of one agent."""
    path = folder / "peers.yaml"
    path.write_text("0: {address: '127.0.0.1:7400'}\n")
    return path


def step_microseconds(calls: int = 200_000) -> float:
    """A call of ``agent.step()`` that does not exchange."""
    model = nn.Linear(4, 2)
    batches = [torch.randn(8, 4)]
    with (
        tempfile.TemporaryDirectory() as folder,
        dimat.Agent(
            model,
            None,
            calibration=batches,
            every=10**9,
            id=0,
            agents=1,
            peers=alone(Path(folder)),
            listen="127.0.0.1:0",
            insecure=True,
        ) as agent,
    ):
        start = time.perf_counter()
        for _ in range(calls):
            agent.step()
        return 1e6 * (time.perf_counter() - start) / calls


def main() -> None:
    small = "--small" in sys.argv
    repeats, rounds = (1, 4) if small else (5, 12)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, N = {AGENTS}, {repeats} repeats")
    found: dict[int, list[float]] = {world: [] for world in WORLDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for world in WORLDS:
                found[world].append(seconds_a_round(world, rounds, Path(folder)))
    alone = statistics.median(found[1])
    for world, values in found.items():
        ratio = alone / statistics.median(values)
        print(f"W = {world}: a round {ratio:4.2f} times as fast as with W = 1")
    step = step_microseconds()
    print(f"agent.step() between exchanges: {step:.2f} us ({beside_aim(step, 20)})")


if __name__ == "__main__":
    main()
