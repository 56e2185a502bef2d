"""The paper's grid at the size of this machine: width 1, a tenth of the rounds, in slices.

.venv/bin/python -m benchmarks.grid --table                   # what is measured, and what waits
.venv/bin/python -m benchmarks.grid --estimate --max_wall_s 1800    # foresee what waits
.venv/bin/python -m benchmarks.grid --max_wall_s 3600 --only cifar10,iid,ring,5,resnet20
until .venv/bin/python -m benchmarks.grid --max_wall_s 3600; do [ $? = 3 ] || break; done
.venv/bin/python -m benchmarks.grid --small                   # random images, two cells: a minute

CIFAR-10 and CIFAR-100, IID and by class, on ring, full graph and bipartite graph of 5 and 10
agents, VGG-11 and ResNet-20: 48 cells a seed, each a run of dimat, wa, cdmsgd, sgp and cga, and of
local as the simplest control, which set out from the same pre-trained agents. Settings are those of
configs/paper (momentum SGD, which cdmsgd is) but for width 1, bfloat16, 10 epochs of pre-training
for 100, and 10 rounds of 2 epochs for 100. Cells lie under OUT/cells, run folders all (`dimat
report`); OUT/estimates.json has the hours that `dimat estimate` foresees for each point of the
grid, on images that only have the shape.

A call stops after --max_wall_s, where its cell can go on, and the next one goes on with it. Exit
codes: 0 all chosen cells are done, 1 one failed, 3 there is more to do.

The table has, for every method that is done (its cell may wait for others), hours (wall time of
all its seeds, without the pre-training that methods and graphs share) and accuracy, mean ± sample
sd over n seeds: right after the merge that begins the last round, of methods that merge then (after
the training that ends it, of others), and after that training. And what it took to come to 95 % of
the best of the former (or to --reach): the first round in which the mean over agents had it, and
since pre-training the time (a core for each agent: of every phase that of the slowest one) and the
bytes that all agents had sent; means over the seeds that reached it, with their number if not all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from dimat import RunConfig
from dimat.errors import DimatError, Stopped
from dimat.experiment.progress import LiveProgress
from dimat.experiment.record.locks import alone
from dimat.experiment.run import run_or_resume
from dimat.experiment.setup import make_setup
from dimat.tasks import CLASSIFICATION
from dimat.tools.compare.read import parse_seeds, read_spec
from dimat.tools.compare.spec import Cell
from dimat.tools.compare.trial import is_cell_finished, method_folders
from dimat.tools.estimate.assume import assumed
from dimat.tools.estimate.forecast import forecast
from dimat.tools.format import NOTHING, human_bytes, human_seconds, spread_text
from dimat.tools.records.curve import Measurement
from dimat.tools.records.read import is_finished, read_run
from dimat.tools.records.run import Run
from dimat.tools.statistics import spread

PAPER = Path(__file__).parents[1] / "configs/paper/cifar100-resnet20-iid-momentum.yaml"
SOURCES = {
    "cifar10": os.environ.get("DIMAT_CIFAR10", "/tmp/cifar10.npz"),
    "cifar100": os.environ.get("DIMAT_CIFAR100", "/tmp/cifar100.npz"),
}
CLASSES = {"cifar10": 10, "cifar100": 100}
AXES = {
    "data": ("cifar10", "cifar100"),
    "split": ("iid", "by-class"),
    "topology": ("ring", "full", "bipartite"),
    "agents": ("5", "10"),
    "model": ("resnet20", "vgg11"),
}
METHODS = ("dimat", "wa", "local", "cdmsgd", "sgp", "cga")
METRIC = CLASSIFICATION.metrics[0]
STOPPED = 3  # exit code of a call that has more to do, as `dimat` has it
_NEAR = 0.95  # of the best method's accuracy


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """The chosen cells: all points with the first seed, then with the next.

    Args:
        options: Those of the command line.
    """
    points = [dict(zip(AXES, values, strict=True)) for values in product(*AXES.values())]
    wanted = [set(word.split(",")) for word in options.only]
    chosen = [p for p in points if not wanted or any(own <= {*p.values()} for own in wanted)]
    base = read_spec(PAPER).base
    return [
        Cell(f"{point_name(point)}-seed{seed}", point, seed, config_of(base, point, seed, options))
        for seed in parse_seeds(options.seeds)
        for point in chosen
    ]


def point_name(point: Mapping[str, object]) -> str:
    """A point of the grid as the name of a folder."""
    return "-".join(map(str, point.values()))


def config_of(
    base: RunConfig, point: Mapping[str, str], seed: int, options: argparse.Namespace
) -> RunConfig:
    """The settings of a cell.

    Args:
        base: Those of the paper.
        point: A point of the grid.
        seed: Seed of everything random.
        options: Those of the command line.
    """
    source = f"npz:{Path(SOURCES[point['data']]).absolute()}"
    images = {"source": source, "split": point["split"], "train_images": options.images}
    return replace(
        base,
        agents=int(point["agents"]),
        rounds=options.rounds,
        pretrain_epochs=options.pretrain_epochs,
        method=METHODS[0],
        controls=METHODS[1:],
        seed=seed,
        model=options.model or point["model"],
        width=1.0,
        precision="bfloat16",
        threads=options.threads,
        topology=replace(base.topology, name=point["topology"]),
        data=replace(base.data, **images),
    )


def work(
    cells: Sequence[Cell],
    out: Path,
    max_wall_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run or resume the cells that are not finished, until the time is up.

    Args:
        cells: The cells.
        out: Folder of the grid.
        max_wall_s: Wall time in seconds.
        clock: Seconds by a clock that never goes back.

    Returns:
        The exit code.
    """
    end, failed = clock() + max_wall_s, 0
    with alone(out, otherwise="another benchmarks.grid is at work"):
        for cell in cells:
            folder = out / "cells" / cell.name
            if is_cell_finished(folder, cell):
                continue
            if not _is_here(cell):
                failed = failed or STOPPED
                continue
            if (left := end - clock()) <= 0:
                return failed if failed == 1 else STOPPED
            print(f"{cell.name}: {left:.0f} s are left", file=sys.stderr, flush=True)
            config = replace(cell.config, out=str(folder), max_wall_s=left)
            try:
                run_or_resume(config, LiveProgress(), pretrained=out / "pretrained")
            except Stopped as stop:
                print(f"{cell.name}: {stop}", file=sys.stderr, flush=True)
                return failed if failed == 1 else STOPPED
            except DimatError as error:  # the others may still do well
                print(f"{cell.name} FAILED: {error}", file=sys.stderr, flush=True)
                failed = 1
    return failed


def _is_here(cell: Cell) -> bool:
    return Path(cell.config.data.source.removeprefix("npz:")).is_file()


def estimate(
    cells: Sequence[Cell],
    out: Path,
    max_wall_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Foresee the hours of every point that was not foreseen yet, until the time is up.

    Args:
        cells: The cells.
        out: Folder of the grid.
        max_wall_s: Wall time in seconds.
        clock: Seconds by a clock that never goes back.

    Returns:
        The exit code.
    """
    end, found = clock() + max_wall_s, estimates(out)
    for cell in cells:
        name = estimate_name(cell)
        if name in found:
            continue
        if clock() >= end:
            return STOPPED
        config, start = cell.config, clock()
        classes, train = CLASSES[str(cell.point["data"])], config.data.train_images or 50_000
        setup = make_setup(config, dataset=assumed(f"{train},10000,32,32,3,{classes}"))
        found[name] = (forecast(setup, clock() - start).wall_s or 0.0) / 3600
        out.mkdir(parents=True, exist_ok=True)
        partial = out / "estimates.json.partial"
        partial.write_text(json.dumps(found, indent=1))
        partial.replace(out / "estimates.json")
        print(f"{name}: {found[name]:.2f} h", flush=True)
    return 0


def estimates(out: Path) -> dict[str, float]:
    """The hours that were foreseen, by point and size."""
    file = out / "estimates.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def estimate_name(cell: Cell) -> str:
    """The point of a cell with all that its cost depends on."""
    own = cell.config
    size = f"{own.data.train_images or 'all'} images, {own.pretrain_epochs} epochs"
    return f"{point_name(cell.point)}, {own.model}, {size}, {own.rounds} rounds, {own.threads}"


def table(cells: Sequence[Cell], out: Path, reach: float | None = None) -> list[str]:
    """The lines of the table: measured points with their methods, and those that wait.

    Args:
        cells: The cells.
        out: Folder of the grid.
        reach: Accuracy to be reached, a fraction; None for 95 % of each point's best method.
    """
    points: dict[str, list[Cell]] = {}
    for cell in cells:
        points.setdefault(point_name(cell.point), []).append(cell)
    foreseen, total, unknown = estimates(out), 0.0, 0
    lines = [
        "| cell | method | n | hours | accuracy, % | trained, % | goal, % | round | time | bytes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in points.items():
        runs = finished_runs(own, out)
        lines += measured_lines(name, {m: found for m, found in runs.items() if found}, reach)
        done = sum(is_cell_finished(out / "cells" / cell.name, cell) for cell in own)
        if waiting := len(own) - done:
            hours = foreseen.get(estimate_name(own[0]))
            total, unknown = total + waiting * (hours or 0.0), unknown + waiting * (hours is None)
            lines.append(f"| {name} | {_waiting(own, waiting, hours, out)} |")
    left = f"{total:.1f} h are estimated for all that waits"
    if unknown:
        left += f", without {unknown} cell(s) that --estimate has not looked at"
    return [*lines, "", left]


def finished_runs(cells: Sequence[Cell], out: Path) -> dict[str, list[Run]]:
    """The finished runs of a point by method, a seed each; its cells need not be finished.

    Args:
        cells: The cells of the point.
        out: Folder of the grid.
    """
    found: dict[str, list[Run]] = {}
    for cell in cells:
        for method, folder in method_folders(out / "cells" / cell.name, cell).items():
            runs = found.setdefault(method, [])
            if is_finished(folder):
                runs.append(read_run(folder))
    return found


def _waiting(cells: Sequence[Cell], count: int, hours: float | None, out: Path) -> str:
    """The rest of the line of a point with cells that wait, of which some may have begun."""
    begun = sum((out / "cells" / cell.name / "environment.json").is_file() for cell in cells)
    state = "waiting" if begun <= len(cells) - count else "waiting, begun"
    if not _is_here(cells[0]):
        state += f" for {cells[0].config.data.source.removeprefix('npz:')}"
    expected = "not estimated" if hours is None else f"{hours:.2f} h a seed, estimated"
    return f"{state} | {count} of {len(cells)} | {expected} | – | – | – | – | – | –"


def measured_lines(name: str, runs: Mapping[str, Sequence[Run]], reach: float | None) -> list[str]:
    """The lines of one point: what its seeds have measured, method by method.

    Args:
        name: The point's name.
        runs: The finished runs of each method, a seed each.
        reach: Accuracy to be reached, a fraction; None for 95 % of the best method's.
    """
    scores = {name: spread([run.score for run in own]) for name, own in runs.items()}
    best = max((own.mean for own in scores.values() if own is not None), default=0.0)
    goal = _NEAR * best if reach is None else reach
    lines = []
    for method, own in runs.items():
        hours = sum(run.number("wall_s") or 0.0 for run in own) / 3600
        found = [(run.curve.rounds[0], first_at(run.curve.rounds, goal)) for run in own]
        firsts = [(start, first) for start, first in found if first is not None]
        rounds = _mean([float(first.round) for _, first in firsts])
        busy = _mean([first.busy_s - start.busy_s for start, first in firsts
                      if first.busy_s is not None and start.busy_s is not None])  # fmt: skip
        sent = _mean([first.sent_bytes for _, first in firsts if first.sent_bytes is not None])
        few = f" (n={len(firsts)})" if 0 < len(firsts) < len(own) else ""
        cells = [
            name,
            method,
            str(len(own)),
            f"{hours:.3f}",
            spread_text(scores[method], METRIC),
            spread_text(spread([run.curve.after("trained") for run in own]), METRIC),
            f"{100 * goal:.1f}",
            (NOTHING if rounds is None else f"{rounds:.1f}") + few,
            human_seconds(busy),
            human_bytes(sent),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def first_at(rounds: Sequence[Measurement], goal: float) -> Measurement | None:
    """The first measured round with a score of at least ``goal``; None if there is none."""
    return next((own for own in rounds if own.score is not None and own.score >= goal), None)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def small() -> int:
    """Two cells of random images and a tiny model, stopped at once and gone on with."""
    with tempfile.TemporaryDirectory() as folder:
        random, options = np.random.default_rng(0), parsed([])
        x, y = random.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8), np.arange(600) % 10
        np.savez(Path(folder, "noise.npz"), train_x=x, train_y=y, test_x=x[:50], test_y=y[:50])
        SOURCES["cifar10"] = f"{folder}/noise.npz"
        options.rounds, options.pretrain_epochs, options.model = 2, 1, "mlp"
        options.only, options.seeds = ["cifar10,iid,ring,5,vgg11", "cifar10,iid,full,5,vgg11"], "0"
        cells = cells_of(options)
        out = Path(folder, "grid")
        calls = 1
        while (code := work(cells, out, 1e-9 if calls < 3 else 1e9)) == STOPPED:
            print(f"call {calls} stopped with more to do")
            calls += 1
        print(f"call {calls} ended with {code}; {len(cells)} cells of noise:", *table(cells, out),
              sep="\n")  # fmt: skip
    return code


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    values = {value for own in AXES.values() for value in own}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid")
    parser.add_argument("--out", type=Path, default=Path("runs/grid"))
    parser.add_argument("--max_wall_s", type=float, default=3600.0, help="of this call")
    named = f"cells that have all of them: {', '.join(sorted(values))}"
    parser.add_argument("--only", nargs="+", default=[], metavar="VALUE,VALUE", help=named)
    parser.add_argument("--seeds", default="0..2", help="such as 0..2, or 0")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--pretrain_epochs", type=int, default=10)
    parser.add_argument("--images", type=int, help="of training; all by default")
    parser.add_argument("--model", help="in place of that of the cell: to try the script")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reach", type=float, help="accuracy in %%; 95 %% of the best by default")
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    parser.add_argument("--estimate", action="store_true", help="foresee what waits, run nothing")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(words)
    if unknown := {word for own in options.only for word in own.split(",")} - values:
        parser.error(f"--only {', '.join(sorted(unknown))}: one of {', '.join(sorted(values))}")
    return options


def main() -> int:
    options = parsed()
    if options.small:
        return small()
    cells, code = cells_of(options), 0
    if options.estimate:
        code = estimate(cells, options.out, options.max_wall_s)
    elif not options.table:
        code = work(cells, options.out, options.max_wall_s)
        if code == 0 and not options.only:  # other cells set out from the same agents
            shutil.rmtree(options.out / "pretrained", ignore_errors=True)
    print(*table(cells, options.out, options.reach and options.reach / 100), sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
