"""All that waits for a GPU, in slices of under ten minutes, each of which goes on after the last.

.venv/bin/python -m benchmarks.gpu                      # a slice; exit code 3: there is more to do
until .venv/bin/python -m benchmarks.gpu; do [ $? = 3 ] || break; done
.venv/bin/python -m benchmarks.gpu --only merging       # one of its steps; --list names them
.venv/bin/python -m benchmarks.gpu --device cpu --only merging    # the script itself, without a GPU

A step is a command in a process of its own, with a limit on its time. Its end, its seconds and the
last of its output are a line of ``OUT/steps.jsonl``, and so is its failure, which no later slice
tries again unless ``--again`` says so. A step begins where its limit fits into what is left of
``--max_wall_s``; the headline of the paper stops by itself when that is spent, and goes on in the
next slice. Without a GPU nothing is run, nothing is recorded, and the exit code is 0.

Exit codes: 0 all is done (or no GPU is here), 1 a step failed, in this slice or before, 3 there is
more to do.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
HEADLINE = "configs/paper/cifar100-resnet20x8-ring5-iid.yaml"
CIFAR100 = os.environ.get("DIMAT_CIFAR100", "/tmp/cifar100.npz")
STOPPED = 3  # exit code of a command that stopped at its limit with more to do, as `dimat` has it
_TAIL = 6000  # characters of a step's output that are kept
_MARGIN_S = 60.0  # between the time that the headline is given, and when it is killed
_LEAST_S = 120.0  # of a slice, for which the headline is begun


@dataclass(frozen=True)
class Step:
    """A command that needs a GPU.

    Args:
        name: Name of the step.
        shows: What it shows.
        command: Arguments of Python.
        limit_s: Seconds after which it is killed.
        in_slices: Whether it stops by itself (exit code 3) at ``--max_wall_s``, which is added to
            the command, and goes on in the next slice; ``limit_s`` then is the least that it needs.
        needs: A file that it reads.
    """

    name: str
    shows: str
    command: tuple[str, ...]
    limit_s: float
    in_slices: bool = False
    needs: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step in one slice.

    Args:
        step: Name of the step.
        state: done, stopped (with more to do) or failed.
        code: Exit code; None if it was killed at its limit.
        seconds: Wall time in seconds.
        tail: The last of its output.
    """

    step: str
    state: str
    code: int | None
    seconds: float
    tail: str


Run = Callable[[Step, float], Outcome]


def steps_on(device: str, out: Path) -> list[Step]:
    """The steps, in their order: what is quick first.

    Args:
        device: cuda, or cpu to try the script itself.
        out: Folder of the headline's run.
    """
    ranks = max(1, torch.cuda.device_count()) if device == "cuda" else 1
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    small = () if device == "cuda" else ("--few",)
    headline = out / "headline"
    begun = (headline / "environment.json").is_file()
    source = ("--data.source", f"npz:{Path(CIFAR100).absolute()}")
    config = ("run", "--config", HEADLINE, "--device", device, *source)
    run = ("resume", str(headline)) if begun else (*config, "--out", str(headline))
    on, anew = ("--device", device), ("--out", str(out / "torchrun"), "--overwrite", "true")
    return [
        Step(
            "correctness",
            "every test that is marked cuda",
            ("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "cuda", "tests"),
            400,
        ),
        Step(
            "merging",
            "matching, averaging and regression against forward passes",
            ("-m", "benchmarks.on_device", "merging", *on, *small),
            300,
        ),
        Step(
            "nccl",
            f"the mean of the states of {ranks} rank(s) of torchrun, against NCCL (on a CPU: Gloo)",
            (*torchrun, "-m", "benchmarks.on_device", "ranks", *on, *small),
            200,
        ),
        Step(
            "torchrun",
            f"a run of dimat on {ranks} rank(s)",
            (*torchrun, "-m", "dimat", "run", *on, "--model", "cnn", "--rounds", "2", *anew),
            200,
        ),
        Step(
            "training",
            "images/s against a plain PyTorch loop",
            ("-m", "benchmarks.training", *on),
            500,
        ),
        Step(
            "vectorize",
            "agents trained at once against one after another, float32",
            ("-m", "benchmarks.vectorize", *on),
            500,
        ),
        Step(
            "vectorize-bfloat16",
            "the same in bfloat16",
            ("-m", "benchmarks.vectorize", *on, "--precision", "bfloat16"),
            500,
        ),
        Step(
            "headline",
            "CIFAR-100, ResNet-20 of 8 times the width, a ring of 5, IID; published: 67.12 %",
            ("-m", "dimat", *run),
            _LEAST_S,
            in_slices=True,
            needs=CIFAR100,
        ),
    ]


def in_slice(
    steps: Iterable[Step],
    ended: Mapping[str, str],
    run: Run,
    clock: Callable[[], float],
    max_wall_s: float,
) -> Iterator[Outcome]:
    """Run the steps that have not ended, as far as the time goes.

    Args:
        steps: All steps, in their order.
        ended: State (done or failed) of steps that ended in slices before this one, by name.
        run: Runs a step, given the seconds that it may take.
        clock: Seconds by a clock that never goes back.
        max_wall_s: Seconds of the slice. Its first step is begun however long its limit is.

    Yields:
        The outcome of each step, when it ends.
    """
    began, first = clock(), True
    for step in steps:
        left = max_wall_s - (clock() - began)
        if step.name in ended or (step.limit_s > left and not first):
            continue
        first = False
        yield run(step, left if step.in_slices else min(step.limit_s, left))


def execute(step: Step, limit_s: float) -> Outcome:
    """Run a step in a process group of its own, which is killed when its time is up.

    Args:
        step: The step.
        limit_s: Seconds that it may take.
    """
    command = [sys.executable, *step.command]
    if step.in_slices:
        command += ["--max_wall_s", f"{max(limit_s - _MARGIN_S, limit_s / 2):.0f}"]
    waiting = {"OMP_WAIT_POLICY": "passive", **os.environ}  # as `dimat` has it
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=waiting,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:  # on Ctrl-C too: what it started must not stay on the GPU
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if code is None:
        text += f"\nkilled after {limit_s:.0f} s"
    stopped = step.in_slices and code == STOPPED
    state = "stopped" if stopped else "done" if code == 0 else "failed"
    return Outcome(step.name, state, code, time.monotonic() - began, text[-_TAIL:].strip())


def recorded(file: Path, device: str) -> dict[str, str]:
    """The last state of every step on a device, by name.

    Args:
        file: The lines of earlier slices; none if it is not there.
        device: Device of the steps.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = [json.loads(line) for line in lines]
    return {own["step"]: own["state"] for own in found if own["device"] == device}


def work(
    steps: Sequence[Step],
    options: argparse.Namespace,
    run: Run = execute,
    clock: Callable[[], float] = time.monotonic,
    where: Callable[[], str] = lambda: "",
) -> int:
    """One slice: run what has not ended, record it, and say what is left.

    Args:
        steps: The steps that were chosen.
        options: Those of the command line.
        run: Runs a step.
        clock: Seconds by a clock that never goes back.
        where: Says on which machine this is.

    Returns:
        The exit code.
    """
    file = options.out / "steps.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    states = recorded(file, options.device)
    over = ("done",) if options.again else ("done", "failed")
    ended = {name: state for name, state in states.items() if state in over}
    here = [step for step in steps if step.needs is None or Path(step.needs).exists()]
    machine = where()
    print(machine, flush=True)
    for own in in_slice(here, ended, run, clock, options.max_wall_s):
        states[own.step] = own.state
        line = {**asdict(own), "device": options.device, "machine": machine}
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(f"\n=== {own.step}: {own.state} (code {own.code}, {own.seconds:.0f} s)\n{own.tail}")
        sys.stdout.flush()
    print()
    for step in steps:
        missing = "" if step in here else f"; {step.needs} is not there"
        print(f"{step.name:20}{states.get(step.name, 'waits'):9}{step.shows}{missing}")
    print(f"All output is in {file}.", flush=True)
    now = [states.get(step.name, "waits") for step in steps]
    if "failed" in now:
        return 1
    return 0 if set(now) <= {"done"} else STOPPED


def main() -> int:
    from benchmarks.__main__ import machine

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--max_wall_s", type=float, default=540.0, help="of this slice")
    parser.add_argument("--only", default="", help="names of steps, with commas between")
    parser.add_argument("--again", action="store_true", help="try those again that failed")
    parser.add_argument("--list", action="store_true", help="name the steps, and run none")
    options = parser.parse_args()
    options.out = options.out.absolute()
    steps = steps_on(options.device, options.out)
    only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - {step.name for step in steps}:
        names = ", ".join(step.name for step in steps)
        parser.error(f"unknown step {', '.join(sorted(unknown))}: one of {names}")
    steps = [step for step in steps if not only or step.name in only]
    if options.list:
        for step in steps:
            print(f"{step.name:20}{step.limit_s:5.0f} s  {step.shows}\n  {' '.join(step.command)}")
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("No GPU is here: nothing was run, and nothing was measured. What waits for one:")
        for step in steps:
            print(f"  {step.name:20}{step.shows}")
        return 0
    return work(steps, options, where=machine)


if __name__ == "__main__":
    sys.exit(main())
