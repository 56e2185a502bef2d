"""How `dimat compare` grows with its cells, as ratios to fifty of them, and a report of 200 runs.

.venv/bin/python -m benchmarks.cells            # 50 and 500 cells
.venv/bin/python -m benchmarks.cells --small    # 20 and 200, two minutes

One real cell is run (digits, two agents, five rounds, dimat and wa), and copied to be all others:
five seeds at each point of a grid. CPU seconds, each case in a process of its own, one thread:

done        the same command again, with nothing to do: read all, write csv and tables
one by one  no cell is there, and each takes no time: what compare itself does when cells end
last        of these what the last tenth of the cells takes, a cell
report      of 200 runs (100 cells of 5 agents, 20 rounds and two methods), and its page in one file
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.aims import beside_aim
from benchmarks.first import DIMAT, processor_s

from dimat import RunConfig
from dimat.experiment.config.config import DataConfig
from dimat.experiment.config.parse import config_to_yaml
from dimat.tools.compare import run as comparing
from dimat.tools.compare.pool import CellJob, Outcome, perform
from dimat.tools.compare.spec import Spec, expand

SEEDS = 5
GROWTH = 1.2  # more than linear that is not seen as such, on a machine that is shared
RUNS, REPORT_S, PAGE_MB = 200, 10, 5
BASE = RunConfig(
    agents=2, rounds=5, pretrain_epochs=1, threads=1, width=0.1, data=DataConfig(split="iid")
)


def spec_of(cells: int, base: RunConfig = BASE) -> Spec:
    """A comparison of so many cells: a grid of batch sizes, five seeds each."""
    points = tuple(range(100, 100 + cells // SEEDS))
    return Spec(base, ("dimat", "wa"), tuple(range(SEEDS)), {"batch_size": points})


def copied(job: CellJob, original: Path) -> None:
    """The run folder of a cell, as if it had been run."""
    folder = Path(job.config.out or "")
    shutil.copytree(original, folder)
    main = replace(job.config, out=None)
    control = replace(main, method="wa", controls=())
    (folder / "config.yaml").write_text(config_to_yaml(main))
    (folder / "controls" / "wa" / "config.yaml").write_text(config_to_yaml(control))


def case(kind: str, cells: int, original: Path, profile: bool) -> dict[str, float]:
    """CPU seconds of one comparison, what copying folders takes left out."""
    spec, copying, marks = spec_of(cells), 0.0, []

    def instantly(tasks: Sequence[CellJob], *_: object) -> Iterator[Outcome]:
        nonlocal copying
        for task in tasks:
            start = time.process_time()
            copied(task, original)
            copying += time.process_time() - start
            marks.append(time.process_time() - copying)
            yield Outcome(task.name)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        comparing.run_tasks = instantly  # type: ignore[assignment]
        if kind == "done":
            comparing.compare(spec, out)
            copying = 0.0
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        start = time.process_time()
        done = comparing.compare(spec, out)
        spent = time.process_time() - start - copying
        profiler.disable()
    assert not any(point.missing for point in done.points)
    if profile:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)
    tenth = cells // 10
    last = (marks[-1] - marks[-1 - tenth]) / tenth if kind == "one by one" else 0.0
    return {"spent": spent, "last": last}


def original_cell(spec: Spec, folder: Path) -> Path:
    """The first cell of a comparison, run."""
    cell = expand(spec)[0]
    config = replace(cell.config, out=str(folder / "cell"))
    ended = perform(CellJob(cell.name, config, folder / "pretrained"))
    assert ended.error is None, ended.details
    return folder / "cell"


def report() -> None:
    """Print rows of the report of 200 runs."""
    spec = spec_of(RUNS // 2, replace(BASE, agents=5, rounds=20))
    with tempfile.TemporaryDirectory() as folder:
        original, out = original_cell(spec, Path(folder)), Path(folder, "out")

        def instantly(tasks: Sequence[CellJob], *_: object) -> Iterator[Outcome]:
            for task in tasks:
                copied(task, original)
                yield Outcome(task.name)

        comparing.run_tasks = instantly  # type: ignore[assignment]
        comparing.compare(spec, out)
        page = Path(folder, "page.html")
        spent = processor_s([*DIMAT, "report", str(out), "--out", str(page)])
        size = page.stat().st_size / 1e6
    print(f"report of {RUNS} runs: {spent:.1f} s ({beside_aim(spent, REPORT_S)})")
    print(f"its page, one file: {size:.2f} MB ({beside_aim(size, PAGE_MB)})", flush=True)


def apart(kind: str, cells: int, original: Path) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.cells", "--case", kind, str(cells), str(original)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cells")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--case", nargs=3, metavar=("KIND", "CELLS", "FOLDER"))
    parser.add_argument("--profile", action="store_true", help="of one case, where the time goes")
    own = parser.parse_args()
    if own.case:
        kind, cells, original = own.case
        print(json.dumps(case(kind, int(cells), Path(original), own.profile)))
        return
    few, many = (20, 200) if own.small else (50, 500)
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        original = original_cell(spec_of(few), Path(folder))
        print(f"| what | {few} cells, s | {many} cells, s | ratio ({many // few} were linear) | |")
        print("|---|---|---|---|---|", flush=True)
        for kind in ("done", "one by one"):
            found = [apart(kind, cells, original) for cells in (few, many)]
            rows = {kind: "spent", **({"last, a cell": "last"} if kind == "one by one" else {})}
            for name, key in rows.items():
                a, b = (each[key] for each in found)
                aim = GROWTH * (1 if key == "last" else many / few)
                judged = beside_aim(b / a, aim)
                print(f"| {name} | {a:.3g} | {b:.3g} | {b / a:.1f} | {judged} |", flush=True)
    report()


if __name__ == "__main__":
    main()
