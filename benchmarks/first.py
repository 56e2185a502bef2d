"""What a newcomer waits for: help, a graph, the first step, a report, and the installation.

.venv/bin/python -m benchmarks.first            # half a minute
.venv/bin/python -m benchmarks.first --clone    # `make demo` in a clone as well: needs the wheels

Seconds of processor time (user and system) of processes with one thread, the least of five, each
beside its aim. The first step is the demo's, counted from the start of its process; the report is
of a small run with a control, and the status of an agent that is not there. The environment is that
of the packages that dimat requires, without extras.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from benchmarks.aims import beside_aim
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
REPEATS = 5
LARGEST = 6
DIMAT = (sys.executable, "-m", "dimat")
SMALL_RUN = "--agents 2 --rounds 3 --width 0.1 --controls wa --threads 1"
# Prints the processor time of its process at the first step of an optimizer, and leaves.
FIRST_STEP = """
import os, time
from dimat.cli import main
from dimat.cli.commands import run
begin = run.world_of

def begin_and_tell(config):
    from torch.optim.optimizer import register_optimizer_step_post_hook as tell
    from dimat.experiment.running.pretrain import Pretraining
    train = Pretraining.run

    def train_and_tell(self):  # steps before are of the trial of stacks
        tell(lambda *own: (print("\\n", time.process_time(), flush=True), os._exit(0)))
        return train(self)

    Pretraining.run = train_and_tell
    return begin(config)

run.world_of = begin_and_tell
main(["run", "--data.split", "by-class", "--out", "demo", "--threads", "1"])
"""


def processor_s(command: Sequence[str], code: int = 0) -> float:
    """Seconds of processor time of a command that ends with an exit code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    assert done.returncode == code, done.stderr.decode()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_step_s() -> float:
    """Seconds of processor time of the demo until the end of its first training step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", FIRST_STEP]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measured(folder: str) -> Iterator[tuple[str, float, Callable[[], float]]]:
    """What is measured, its aim, and how; runs and files that it needs are made in a folder."""
    yield "dimat --help", 0.3, partial(processor_s, [*DIMAT, "--help"])
    yield "topology ring", 1.0, partial(processor_s, [*DIMAT, "topology", "ring"])
    yield "first step", 4.0, first_step_s
    run, page, peers = (str(Path(folder, name)) for name in ("run", "page", "peers.yaml"))
    processor_s([*DIMAT, "run", *SMALL_RUN.split(), "--out", run])
    report = [*DIMAT, "report", run, "--out", page, "--overwrite"]
    yield "report", 1.5, partial(processor_s, report)
    Path(peers).write_text('0: {address: "127.0.0.1:1"}\n')
    yield "status", 1.0, partial(processor_s, [*DIMAT, "status", peers, "--insecure"], 1)


def sizes() -> dict[str, int]:
    """Bytes of the files of each package that dimat requires, and of those that they require."""
    found: dict[str, int] = {}
    wanted = ["dimat"]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        try:
            own = distribution(name)
        except PackageNotFoundError:  # for another system
            continue
        places = [Path(str(own.locate_file(file))) for file in own.files or ()]
        found[name] = sum(place.stat().st_size for place in places if place.is_file())
        required = map(Requirement, own.requires or ())
        wanted += [r.name for r in required if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def clone() -> None:
    """Print how long it takes from ``git clone`` to the table of the demo."""
    os.environ.pop("PYTHONPATH", None)  # the clone's own dimat, not this one
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), folder], check=True)
        spent = processor_s(["make", "--silent", "-C", folder, "demo"])
        taken = time.monotonic() - start
    aim = beside_aim(taken, 120)
    print(f"clone to table   {taken:8.0f} s by the clock ({aim}), {spent:.0f} s of processors")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first", description=__doc__)
    parser.add_argument("--clone", action="store_true", help="make demo in a clone as well")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    with tempfile.TemporaryDirectory() as folder:
        for told, aim, measure in measured(folder):
            least = min(measure() for _ in range(REPEATS))
            judged = beside_aim(least, aim)
            print(f"{told:16} {least:8.2f} s of processor time ({judged})", flush=True)
    own = sizes()
    total, largest = sum(own.values()), sorted(own, key=lambda name: -own[name])[:LARGEST]
    shares = ", ".join(f"{name} {own[name] / 1e6:.0f}" for name in largest)
    print(f"environment      {total / 1e6:8.0f} MB in {len(own)} packages: {shares}")
    if options.clone:
        clone()


if __name__ == "__main__":
    main()
