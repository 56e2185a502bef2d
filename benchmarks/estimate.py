"""How well ``dimat estimate`` foresees the time that runs then take.

.venv/bin/python -m benchmarks.estimate            # six runs, some 8 minutes
.venv/bin/python -m benchmarks.estimate --small    # three of them, a minute

Each run is estimated and then made, in processes of their own, with one thread; ratios are medians
over repeats. Expected and taken are wall seconds from reading the images to the last summary,
controls included; the aim is 25 %. A share of a core below 1 says that others were computing.
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

import torch

from dimat import RunConfig, run
from dimat.experiment.compare.read import read_spec
from dimat.experiment.config import DataConfig
from dimat.experiment.estimate.forecast import forecast
from dimat.experiment.setup import make_setup

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
    """Seconds that the estimate says."""
    start = time.perf_counter()
    setup = make_setup(config)
    return forecast(setup, time.perf_counter() - start).wall_s or 0.0


def taken(config: RunConfig) -> float:
    """Seconds that the run takes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run(replace(config, out=f"{folder}/run"))
        return time.perf_counter() - start


def apart(task: str, name: str) -> tuple[float, float]:
    """What a process of its own finds, and the share of its time that it had a core."""
    command = [sys.executable, "-m", "benchmarks.estimate", task, name]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(found[-2]), float(found[-1])


def main() -> None:
    small = "--small" in sys.argv
    repeats = 1 if small else 3
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, 1 thread, n = {repeats}")
    print("| run | expected | taken | expected / taken | a core: estimate, run | load |")
    for name in cases(small):
        pairs = [(apart("expected", name), apart("taken", name)) for _ in range(repeats)]
        said, own = (statistics.median(first[k] for first, _ in pairs) for k in (0, 1))
        took, core = (statistics.median(second[k] for _, second in pairs) for k in (0, 1))
        ratios = sorted(first[0] / second[0] for first, second in pairs)
        ratio = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        row = (f"{said:.1f} s", f"{took:.1f} s", ratio, f"{own:.2f}, {core:.2f}")
        print(f"| {name} | {' | '.join(row)} | {os.getloadavg()[0]:.1f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] in (["expected"], ["taken"]):
        start, cpu = time.perf_counter(), time.process_time()
        task = {"expected": expected, "taken": taken}[sys.argv[1]]
        seconds = task(replace(cases(small=False)[sys.argv[2]], threads=1))
        share = (time.process_time() - cpu) / (time.perf_counter() - start)
        print(seconds, share)
    else:
        main()
