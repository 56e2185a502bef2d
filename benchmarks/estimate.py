"""How well ``dimat estimate`` foresees the time that runs then take.

.venv/bin/python -m benchmarks.estimate            # six runs, some 8 minutes
.venv/bin/python -m benchmarks.estimate --small    # three of them, once: a minute and a half

Each run is estimated and then made, in processes of their own, with one thread, from reading the
images to the last summary, controls included. Ratios are expected / taken, medians over repeats
with the lowest and the highest; the aim is 25 %. The second ratio is of processor time, with the
device timed by that: beside other jobs it is the one to trust, but waits for no disk.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from dimat import RunConfig, run
from dimat.experiment.config.config import DataConfig
from dimat.experiment.setup import make_setup
from dimat.methods import timer as stopwatch
from dimat.tools.compare.read import read_spec
from dimat.tools.estimate import forecast as forecasting
from dimat.tools.estimate import timing
from dimat.tools.estimate.forecast import forecast

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = ("small/ring-by-class", "small/topologies", "small/does-alignment-matter")


def cases(small: bool) -> dict[str, RunConfig]:
    """What is run, by name: of a comparison its first run."""
    found = {name: read_spec(CONFIGS / f"{name}.yaml").first for name in SMALL}
    if small:
        return found
    cnn = replace(RunConfig(), model="cnn", rounds=10, pretrain_epochs=10)
    full = read_spec(CONFIGS / "small/topologies.yaml").config({"topology.name": "full"}, 0)
    images = DataConfig("digits", "iid", augment=True)
    wide = replace(cnn, model="resnet20", data=images, rounds=5, pretrain_epochs=3, batch_size=50)
    return {**found, "topologies, full": full, "demo, cnn": cnn, "resnet20 on digits": wide}


def expected(config: RunConfig) -> float:
    """Seconds that the estimate says, by the clock that it is given."""
    start = stopwatch.time.perf_counter()
    setup = make_setup(config)
    return forecast(setup, stopwatch.time.perf_counter() - start).wall_s or 0.0


def expected_cpu(config: RunConfig) -> float:
    """The same of processor time: every clock of the estimate shows that."""
    clock = SimpleNamespace(perf_counter=time.process_time)
    for module in (timing, forecasting, stopwatch):
        module.time = clock  # type: ignore[attr-defined]
    return expected(config)


def taken(config: RunConfig) -> float:
    """Seconds that the run takes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run(replace(config, out=f"{folder}/run"))
        return time.perf_counter() - start


TASKS = {"expected": expected, "expected-cpu": expected_cpu, "taken": taken}


def apart(task: str, name: str) -> tuple[float, float]:
    """What a process of its own finds, and the processor time that this took."""
    command = [sys.executable, "-m", "benchmarks.estimate", task, name]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(found[-2]), float(found[-1])


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    small = "--small" in sys.argv
    repeats = 1 if small else 3
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, 1 thread, n = {repeats}")
    print("| run | expected | taken | by the clock | of processor time | load |")
    for name in cases(small):
        found = [[apart(task, name) for task in TASKS] for _ in range(repeats)]
        wall = [said[0] / took[0] for said, _, took in found]
        cpu = [said[0] / took[1] for _, said, took in found]
        said, took = (statistics.median(own[k][0] for own in found) for k in (0, 2))
        row = (f"{said:.1f} s", f"{took:.1f} s", spread(wall), spread(cpu))
        print(f"| {name} | {' | '.join(row)} | {os.getloadavg()[0]:.1f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in TASKS:
        begun = time.process_time()
        seconds = TASKS[sys.argv[1]](replace(cases(small=False)[sys.argv[2]], threads=1))
        print(seconds, time.process_time() - begun)
    else:
        main()
