"""How time and memory grow with the number of agents in one process, as ratios to ten of them.

.venv/bin/python -m benchmarks.scale            # 10, 100, 1,000 agents; about 25 minutes
.venv/bin/python -m benchmarks.scale --small    # the mlp only, with dimat and wa: three minutes
.venv/bin/python -m benchmarks.scale --pace 5 100 1000 --before PATH    # see below

Every case is a `dimat run` in a process of its own, of 50 of scikit-learn's digits an agent (dealt
out several times over), one epoch of pre-training and then rounds of two steps of 16 images, on a
random graph of 3 neighbors, with one thread and checkpoints as by default. Cases of different size
alternate. Times are CPU seconds (the machine is shared), medians over rounds and repeats:

first     the first round, in which three agents of four match (dimat alone)
round     the last three, when one order has come around (dimat) and nobody matches
start     seconds of wall clock until the first training step, imports of Python left out
memory    of each further agent: the peak of this size less that of the size before

`--pace` counts agent-rounds a second of the demo with so many agents (its mlp, 287 digits an agent,
dealt out several times over, 20 rounds of 8 steps of 32 images, evaluated twice a round,
checkpoints as by default; pre-trained for one epoch, which is not counted): agents that train one
after another against those that train at once, and both against another checkout of dimat at PATH,
all in turns. By the clock, and by processor time, which says more where the machine is shared. With
`--small` 5 agents, in turns against at once.

And what mixing alone takes for 1,000 of them: a sum of the neighbors at every agent, as every
transport does it, against one product of a sparse matrix with all states side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.aims import beside_aim

import dimat
from dimat import RunConfig
from dimat.data.digits import digits
from dimat.experiment.config.config import (
    DataConfig,
    MatchingConfig,
    OptimizerConfig,
    TopologyConfig,
)
from dimat.experiment.progress import Silent
from dimat.merging import mix
from dimat.methods import protocol
from dimat.models import build_model
from dimat.state import state_of
from dimat.topology import build_topology
from dimat.training.trainer import LocalTrainer

HERE = Path(__file__).parents[1]
IMAGES = 50
DEMO_IMAGES, DEMO_ROUNDS = 287, 20  # of an agent of the demo, and its rounds
SETTLED = {10: 3, 100: 8, 1000: 12}  # rounds that an order takes to everybody, by agents
PACE, MINUTE_S = 3, 60  # aims: times as many agent-rounds a second; 20 rounds of 1,000 agents
BIG = {"agents": 1000, "model": "mlp", "width": 4.0, "method": "dimat"}  # 0.3 M


class Watch(Silent):
    """Notes when every round of all agents is over, and when the first step begins."""

    def __init__(self, agents: int) -> None:
        self.agents, self.first = agents, 0.0
        self.start = time.perf_counter()
        self.rounds: list[float] = []
        self.training = False
        original = LocalTrainer.batch

        def batch(agent: LocalTrainer) -> Any:
            if self.training:  # steps before are of the trial of stacks
                self.first = self.first or time.perf_counter() - self.start
            return original(agent)

        LocalTrainer.batch = batch  # type: ignore[method-assign]

    def stage(self, description: str, total: int) -> None:
        self.training |= description == "pre-training"
        self.done, self.rounds, self.last = 0, [], time.process_time()

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if steps and self.done % self.agents == 0:
            now = time.process_time()
            self.rounds.append((now - self.last) / self.agents)
            self.last = now


def dealt_out(count: int, path: Path) -> str:
    """A source of so many training digits, dealt out several times over."""
    whole = digits()
    pick = np.arange(count) % len(whole.train_y)
    np.savez(
        path,
        train_x=whole.train_x.numpy()[pick],
        train_y=whole.train_y.numpy()[pick],
        test_x=whole.test_x.numpy(),
        test_y=whole.test_y.numpy(),
    )
    return f"npz:{path}"


def case(agents: int, model: str, width: float, method: str, rounds: int) -> dict[str, Any]:
    """One run in this process: seconds of each round an agent, of the start, and peak bytes."""
    with tempfile.TemporaryDirectory() as folder:
        source = dealt_out(IMAGES * agents, Path(folder, "digits.npz"))
        config = RunConfig(
            agents=agents,
            rounds=rounds,
            pretrain_epochs=1,
            local_steps=2,
            batch_size=16,
            method=method,
            controls=(),
            model=model,
            width=width,
            threads=1,
            eval_every=rounds + 1,
            topology=TopologyConfig("random-regular"),
            data=DataConfig(source, split="iid"),
            optimizer=OptimizerConfig("msgd", lr=0.01),
            matching=MatchingConfig(images=32),
            out=str(Path(folder, "run")),
        )
        watch = Watch(agents)
        dimat.run(config, watch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rounds": watch.rounds, "start": watch.first, "peak": peak}


def apart(checkout: Path = HERE, how: str = "--case", **own: Any) -> dict[str, Any]:
    """The same in a process of its own; its peak of memory is at least ours, so we stay small."""
    command = [sys.executable, __file__, how, json.dumps(own)]  # this script, of any checkout
    there = {"PYTHONPATH": f"{checkout / 'src'}:{HERE}", "OMP_WAIT_POLICY": "passive"}
    environment = {**os.environ, **there}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Rounds(Silent):
    """Notes when the rounds begin."""

    def stage(self, description: str, total: int) -> None:
        self.start = time.perf_counter(), time.process_time()


def pace(agents: int, threads: int, **own: Any) -> dict[str, float]:
    """Seconds of the demo's rounds with so many agents, by the clock and of processor time."""
    with tempfile.TemporaryDirectory() as folder:
        source = dealt_out(DEMO_IMAGES * agents, Path(folder, "digits.npz"))
        config = RunConfig(
            agents=agents,
            rounds=DEMO_ROUNDS,
            pretrain_epochs=1,
            controls=(),
            threads=threads,
            topology=TopologyConfig("ring" if agents < 10 else "random-regular"),
            data=DataConfig(source, split="iid"),
            out=str(Path(folder, "run")),
            **own,
        )
        rounds = Rounds()
        dimat.run(config, rounds)
        clock, processor = time.perf_counter(), time.process_time()
    return {"clock": clock - rounds.start[0], "processor": processor - rounds.start[1]}


def paces(sizes: list[int], threads: int, before: Path | None, repeats: int) -> None:
    """Agent-rounds a second, medians of runs in turns."""
    kinds: dict[str, tuple[Path, dict[str, Any]]] = {
        "one after another": (HERE, {"vectorize": 1}),
        "at once (default)": (HERE, {}),
    }
    if before is not None:
        kinds = {"before": (before, {}), **kinds}
    print("| agents | | agent-rounds/s | of processor time | ratio | 20 rounds, s | |")
    print("|---|---|---|---|---|---|---|")
    for agents in sizes:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
        for _ in range(repeats if agents < 1000 else 1):
            for name, (checkout, own) in kinds.items():
                case = {"agents": agents, "threads": threads, **own}
                found[name].append(apart(checkout, "--pace-case", **case))
        base = found[next(iter(kinds))]
        for name, runs in found.items():
            clock, processor = (
                statistics.median(run[key] for run in runs) for key in ("clock", "processor")
            )
            pairs = zip(base, runs, strict=True)
            ratio = statistics.median(a["processor"] / b["processor"] for a, b in pairs)
            each = agents * DEMO_ROUNDS
            cells = [agents, name, f"{each / clock:.0f}", f"{each / processor:.0f}"]
            judged = beside_aim(ratio, PACE, at_least=True) if name == [*kinds][-1] else ""
            cells += [f"{ratio:.2f}", f"{clock:.1f}", judged]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def measured(sizes: list[int], kinds: list[tuple[str, str]], repeats: int) -> None:
    """Cases in turns, and a table of each kind."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for _ in range(repeats):
        for model, method in kinds:
            for agents in sizes:
                rounds = max(SETTLED[agents] + 3, 20 * (agents == 1000)) if method == "dimat" else 4
                run = apart(agents=agents, model=model, width=1.0, method=method, rounds=rounds)
                found[model, method, agents].append(run)
    print("| model, method | agents | first, ms | round, ms | start, s | peak, MB | memory, MB |")
    print("|---|---|---|---|---|---|---|")
    for model, method in kinds:
        rows = [summary(found[model, method, agents]) for agents in sizes]
        for k, (agents, row) in enumerate(zip(sizes, rows, strict=True)):
            first, later = (f"{row[n]:.2f} ({row[n] / rows[0][n]:.2f})" for n in ("first", "round"))
            more = 0.0 if k == 0 else (row["peak"] - rows[k - 1]["peak"]) / (agents - sizes[k - 1])
            cells = [f"{model}, {method}", agents, first, later, f"{row['start']:.1f}"]
            cells += [f"{row['peak']:.0f}", f"{more:.2f}" if k else ""]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if ("mlp", "dimat") in kinds:
        run = found["mlp", "dimat", 1000][0]
        spent = 1000 * sum(run["rounds"][:20])
        judged = beside_aim(spent, MINUTE_S)
        print(f"\n1,000 agents, 20 rounds: {spent:.0f} s of processor time ({judged})", flush=True)


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Medians: milliseconds an agent-round, seconds, and megabytes."""
    return {
        "first": 1e3 * statistics.median(own["rounds"][0] for own in runs),
        "round": 1e3 * statistics.median(x for own in runs for x in own["rounds"][-3:]),
        "start": statistics.median(own["start"] for own in runs),
        "peak": statistics.median(own["peak"] for own in runs) / 1e6,
    }


def mixing(width: float) -> str:
    """A line on mixing, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--mixing", str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def mixed(width: float, agents: int = 1000, repeats: int = 7) -> str:
    """A line: mixing at every agent against one sparse product, in turns."""
    torch.set_num_threads(1)
    graph = build_topology("random-regular", agents).at(0)
    model = build_model("mlp", in_channels=1, num_classes=10, image_size=(8, 8), width=width)
    random = torch.Generator().manual_seed(0)
    states = [
        {key: torch.randn(value.shape, generator=random) for key, value in state_of(model).items()}
        for _ in range(agents)
    ]
    beside = torch.stack([torch.cat([v.flatten() for v in own.values()]) for own in states])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse tensors are new
        sparse = torch.from_numpy(graph.pi).float().to_sparse_csr()
    rows = [
        (protocol.row(graph, i), [states[j] for j in (i, *graph.neighbors(i))])
        for i in range(agents)
    ]
    spent: list[tuple[float, float]] = []
    for _ in range(repeats):
        start = time.perf_counter()
        each = [mix(heard, weights) for weights, heard in rows]
        middle = time.perf_counter()
        at_once = sparse @ beside
        spent.append((middle - start, time.perf_counter() - middle))
        flat = torch.cat([v.flatten() for v in each[-1].values()])
        assert torch.allclose(flat, at_once[-1], atol=1e-5)
        del each, at_once
    loop, product = (1e3 * statistics.median(own[k] for own in spent) / agents for k in (0, 1))
    ratio = statistics.median(product / loop for loop, product in spent)
    size = f"{beside.shape[1] / 1e3:,.0f} k parameters"
    return f"| {size} | {loop:.3f} | {product:.3f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--case", type=json.loads)
    parser.add_argument("--mixing", type=float)
    parser.add_argument("--pace", type=int, nargs="+", metavar="AGENTS")
    parser.add_argument("--pace-case", type=json.loads)
    parser.add_argument("--before", type=Path, help="another checkout, with --pace")
    parser.add_argument("--threads", type=int, default=1, help="with --pace")
    parser.add_argument("--repeats", type=int, default=3, help="with --pace")
    options = parser.parse_args()
    if options.pace:
        paces(options.pace, options.threads, options.before, options.repeats)
        return
    if options.pace_case:
        print(json.dumps(pace(**options.pace_case)))
        return
    if options.mixing:
        print(mixed(options.mixing))
        return
    if options.case:
        print(json.dumps(case(**options.case)))
        return
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}\n")
    print("| 1,000 agents, mlp | a sum at each, ms an agent | one sparse product, ms | ratio |")
    print("|---|---|---|---|")
    for width in (1.0,) if options.small else (1.0, 4.0):
        print(mixing(width), flush=True)
    print()
    if options.small:
        paces([5], 1, None, 1)
        print()
        measured([10, 100, 1000], [("mlp", "dimat"), ("mlp", "wa")], 1)
    else:
        kinds = [(model, method) for model in ("mlp", "cnn") for method in ("dimat", "wa", "local")]
        measured([10, 100, 1000], kinds, 3)
    own = summary([apart(**BIG, rounds=1 if options.small else 2)])
    peak, start = own["peak"] / 1e3, own["start"]
    print("\n1,000 agents of 0.3 M parameters, momentum SGD:", end=" ")
    print(f"peak {peak:.2f} GB ({beside_aim(peak, 8)}),", end=" ")
    print(f"start {start:.1f} s ({beside_aim(start, 10)}), a round {own['round']:.1f} ms an agent")


if __name__ == "__main__":
    main()
