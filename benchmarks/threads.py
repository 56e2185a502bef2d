"""How many threads a run should use, and how they should wait, on a quiet and on a busy machine.

.venv/bin/python -m benchmarks.threads            # an hour on 2 cores, mostly for the busy lines
.venv/bin/python -m benchmarks.threads --small    # the mlp of the demo only, once: 3 minutes

Each line is a `dimat run` in a process of its own, wall clock / processor time in seconds: the
demo in short, also with a cnn, and two rounds of a ResNet-20 on random images of 32x32. Busy means
that every core has one other process that computes without end. OpenMP's threads wait for work
actively (they compute; the standard) or passively (they sleep; OMP_WAIT_POLICY, as `dimat` sets).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

CASES = {
    "mlp, 26 k": "--rounds 4 --pretrain_epochs 8",
    "cnn, 57 k": "--rounds 4 --pretrain_epochs 8 --model cnn",
    "resnet20, 293 k": "--rounds 2 --pretrain_epochs 0 --model resnet20 --agents 3 "
    "--data.source npz:images.npz --data.split iid --batch_size 100 --controls []",
}
WAYS = {"1": (1, ""), "2, active": (2, "active"), "2, passive": (2, "passive")}
REPEATS = 3


def images(path: Path) -> None:
    """Random images of 32x32, as many as three agents train on in some ten steps each."""
    random = np.random.default_rng(0)

    def some(count: int) -> np.ndarray:
        return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    labels = np.arange(3000) % 10
    np.savez(path, train_x=some(3000), train_y=labels, test_x=some(500), test_y=labels[:500])


@contextmanager
def neighbors(count: int) -> Iterator[None]:
    """So many processes that compute, while what is inside runs."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def measure(options: str, threads: int, waiting: str, folder: str) -> tuple[float, float]:
    """Seconds by the clock and of the processor, of one run."""
    command = [sys.executable, "-m", "dimat", "run", *options.split(), "--threads", str(threads)]
    fixed = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment = fixed | ({"OMP_WAIT_POLICY": waiting} if waiting else {})
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(cases: Sequence[str], repeats: int, cores: int) -> None:
    """A line for each case and load: medians over repeats, in which the ways take turns."""
    print(f"| model | machine | {' | '.join(WAYS)} |\n|---|---|{'---|' * len(WAYS)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        images(Path(folder, "images.npz"))
        for name in cases:
            for load in (0, cores):
                with neighbors(load):
                    runs = [
                        [measure(CASES[name], *way, folder) for way in WAYS.values()]
                        for _ in range(repeats)
                    ]
                columns = [zip(*column, strict=True) for column in zip(*runs, strict=True)]
                shown = [" / ".join(f"{statistics.median(x):.1f}" for x in c) for c in columns]
                machine = "busy" if load else "quiet"
                print(f"| {name} | {machine} | {' | '.join(shown)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="the mlp of the demo only, once")
    small = parser.parse_args().small
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f} beside what is measured", flush=True)
    table(list(CASES)[:1] if small else list(CASES), 1 if small else REPEATS, cores)


if __name__ == "__main__":
    main()
