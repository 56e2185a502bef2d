"""All benchmarks, one after another, each in a process of its own.

.venv/bin/python -m benchmarks            # short forms; `make bench`
.venv/bin/python -m benchmarks --long     # all of them, in full: hours
.venv/bin/python -m benchmarks training round

A benchmark is one entry below: how it is run, and what it shows.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dimat.experiment.record.environment import environment

ROOT = Path(__file__).parents[1]
SMALL = ("--small",)
STOPPED = 3  # exit code of one that did its slice and has more to do


@dataclass(frozen=True)
class Benchmark:
    """A script of this folder.

    Args:
        name: Of its module.
        shows: What it measures.
        short: Options of its short form; None if it has none.
        long: Options in full.
        needs: A file that it reads, where that is not one of ours.
    """

    name: str
    shows: str
    short: Sequence[str] | None = None
    long: Sequence[str] = ()
    needs: str | None = None


CIFAR10 = os.environ.get("DIMAT_CIFAR10", "/tmp/cifar10.npz")
PARENTS = os.environ.get("DIMAT_PARENTS", "../shared/data/parents")
TABLES = ("methods", "many", "ridge", "images", "budget", "other", "margins")
BENCHMARKS = (
    Benchmark("first", "what a newcomer waits for", (), ("--clone",)),
    Benchmark("training", "images/s against a plain PyTorch loop", SMALL),
    Benchmark("vectorize", "agents trained at once against one after another", SMALL),
    Benchmark("threads", "one thread or two, on quiet and on busy cores", SMALL),
    Benchmark("round", "where the time of a round goes", SMALL),
    Benchmark("scale", "time and memory of 10 to 1,000 agents", SMALL),
    Benchmark("many_rounds", "what grows with 10,000 rounds: time, memory, files, reports", SMALL),
    Benchmark("cells", "dimat compare of 500 cells against 50", SMALL),
    Benchmark("estimate", "expected time of runs against what they take", SMALL),
    Benchmark("neighbors", "a state to one neighbor against bare gRPC and bare Gloo", SMALL),
    Benchmark("ranks", "states between ranks of torchrun against bare Gloo", SMALL),
    Benchmark("cluster", "a round on several processes", SMALL),
    Benchmark("soak", "faults without end: what is lost", ("--short",)),
    Benchmark("symmetry", "finding and applying symmetries against a forward pass", SMALL),
    Benchmark("merging_speed", "matching and merging against forward passes", SMALL),
    Benchmark("rate", "the rate of SGD in agents and steps, in one unit order and without", SMALL),
    Benchmark("spectrum", "what the permutations of a run do to mixing", SMALL),
    Benchmark("gauge", "the table of docs/gauge.md"),
    Benchmark("digits", "the numbers of docs/what_it_can.md"),
    Benchmark("owners", "the numbers of docs/merging.md on merging without shared data"),
    Benchmark("widths", "the table of docs/widths.md"),
    Benchmark("continuous", "the tables of docs/continuous.md"),
    Benchmark("frames", "frames of agents, and what Adam keeps when units turn", SMALL),
    Benchmark("robust", "what a lying agent does, and what it costs to be safe", SMALL),
    Benchmark("lora", "ways to combine low-rank adapters: accuracy against bytes", SMALL),
    Benchmark("grid", "the paper's grid at this size: what is measured, what waits", SMALL),
    Benchmark("gpu", "all that waits for a GPU, a slice of nine minutes; nothing without one", ()),
    Benchmark("combine", "average against regression in rounds", needs=CIFAR10),
    Benchmark("merging", "the tables of docs/matching.md", None, TABLES, needs=PARENTS),
)


def machine() -> str:
    """One line on where this is measured, and with what."""
    own = environment()
    changed = " and changes" if own["git_dirty"] else ""
    return (
        f"{own['cpu']}, {own['cores']} cores, GPU: {own['gpu'] or 'none'}; {own['platform']}; "
        f"Python {platform.python_version()}, torch {own['torch']}, numpy {own['numpy']}; "
        f"commit {str(own['git_commit'])[:10]}{changed}; load {os.getloadavg()[0]:.1f}"
    )


def measure(own: Benchmark, *, long: bool) -> bool:
    """Run one, print what it prints; whether it went well."""
    options = own.long if long or own.short is None else own.short
    print(f"\n=== {own.name}: {own.shows}", flush=True)
    if own.needs and not (ROOT / own.needs).exists():
        print(f"left out: {own.needs} is not there", flush=True)
        return True
    start = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.{own.name}", *options]
    waiting = {"OMP_WAIT_POLICY": "passive", **os.environ}  # as `dimat` has it
    code = subprocess.run(command, cwd=ROOT, env=waiting, check=False).returncode
    state = {0: "", STOPPED: "; more to do"}.get(code, f"; FAILED with exit code {code}")
    load = os.getloadavg()[0]
    print(f"({own.name}: {time.monotonic() - start:.0f} s, load {load:.1f}{state})", flush=True)
    return code in (0, STOPPED)


def main() -> int:
    names = [own.name for own in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="All benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--long", action="store_true", help="all of them, in full: hours")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}: one of {', '.join(names)}")
    chosen = [own for own in BENCHMARKS if own.short is not None or options.long]
    if options.names:
        chosen = [own for own in BENCHMARKS if own.name in options.names]
    print(machine(), flush=True)
    start = time.monotonic()
    failed = [own.name for own in chosen if not measure(own, long=options.long)]
    print(f"\n{len(chosen)} benchmarks in {(time.monotonic() - start) / 60:.1f} minutes", end="")
    print(f"; failed: {', '.join(failed)}" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
