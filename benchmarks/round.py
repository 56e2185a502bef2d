"""Where the time of a round goes: training, exchange, matching, merging, recalibration, evaluation.

.venv/bin/python -m benchmarks.round            # 10,000 images an agent: an hour on 2 cores
.venv/bin/python -m benchmarks.round --small    # 1,000 an agent, two minutes
    --data npz:PATH --precision bfloat16 --threads 1

ResNet-20 of width 1, five agents in a ring, `dimat` as it is by default, two local epochs, batches
of 100, evaluated every round on the source's test images; CIFAR-10 from /tmp/cifar10_1k.npz, which
has 1,000 of those, or from `--data`, else noise of that shape.
Every second counts once, for the innermost of what is going on. Matching and recalibration look at
1,000 and 2,000 images, if there are so many, training at all: with `--small` their share is larger
than in the paper's setting, so the second share is computed for 10,000 images an agent from the
same seconds, these three taken as proportional to the images they see. In round 1 agents match;
later, once one order has come around, they do not.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dimat
from dimat import RunConfig
from dimat.experiment.config.config import DataConfig, TopologyConfig
from dimat.experiment.evaluation.evaluate import Measure
from dimat.experiment.running.rounds import Rounds
from dimat.methods.rounds import dimat as method
from dimat.training.trainer import LocalTrainer

AGENTS, FULL, CIFAR = 5, 10_000, "/tmp/cifar10_1k.npz"
PARTS = {
    "training": [(Rounds, "_train")],
    "exchange": [(Rounds, "_merge")],
    "matching": [(method, "spread")],
    "merging": [(method, "combine_heard"), (LocalTrainer, "take_over"), (method, "distance_from")],
    "recalibration": [(LocalTrainer, "recalibrate")],
    "evaluation": [(Measure, "agents")],
    "diagnostics": [(Measure, "merge")],
    "checkpoint": [(Rounds, "_keep_or_stop")],
    "start": [(Rounds, "_set_out")],
}
TOGETHER = "exchange to recalibration"
MERGE = ("exchange", "matching", "merging", "recalibration")


class Clock:
    """Seconds by part, each counted for the innermost call alone; and after every round."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self.rounds: list[dict[str, float]] = []
        self._open: list[str] = []
        self._since = time.perf_counter()

    def turn(self) -> None:
        """Count the time since the last turn for what is open."""
        now = time.perf_counter()
        if self._open:
            self.spent[self._open[-1]] += now - self._since
        self._since = now

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count what a function takes, but for what it calls that is counted apart."""
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **settings: Any) -> Any:
            self.turn()
            self._open.append(part)
            try:
                return original(*args, **settings)
            finally:
                self.turn()
                self._open.pop()
                if part == "checkpoint":  # the last of a round
                    self.rounds.append(dict(self.spent))
                if part in ("checkpoint", "start"):
                    self.spent.clear()

        setattr(owner, name, timed)


def noise(folder: Path) -> str:
    """Images of CIFAR-10's shape."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 50_000), ("test", 1000)):
        arrays[f"{part}_x"] = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"{part}_y"] = np.arange(count) % 10
    np.savez(folder / "noise.npz", **arrays)
    return f"npz:{folder}/noise.npz"


def measured(options: argparse.Namespace, images: int, rounds: int) -> list[dict[str, float]]:
    """Seconds by part, of every round."""
    clock = Clock()
    for part, calls in PARTS.items():
        for owner, name in calls:
            clock.watch(owner, name, part)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(options.data.removeprefix("npz:")).exists()
        source = options.data if there else noise(Path(folder))
        data = DataConfig(source, train_images=images * AGENTS, split="iid")
        config = RunConfig(
            agents=AGENTS,
            rounds=rounds,
            pretrain_epochs=0,
            local_epochs=2,
            batch_size=100,
            controls=(),
            model="resnet20",
            topology=TopologyConfig("ring"),
            data=data,
            precision=options.precision,
            threads=options.threads,
            out=str(Path(folder, "run")),
        )
        dimat.run(config)
    return clock.rounds


def table(found: list[dict[str, float]], images: int) -> None:
    """Seconds and shares of the first and of the last round."""
    print("| part | round 1, s | share | at 10,000 | last round, s | share | at 10,000 |")
    print("|---|---|---|---|---|---|---|")
    shown = [shares(found[k], images) for k in (0, -1)]
    for part in (*(p for p in PARTS if p != "start"), TOGETHER):
        cells = [f"{s:.2f} | {own:.1%} | {full:.1%}" for s, own, full in (x[part] for x in shown)]
        print(f"| {part} | {' | '.join(cells)} |")


def shares(spent: dict[str, float], images: int) -> dict[str, tuple[float, float, float]]:
    """By part: seconds, share of the round, and that with 10,000 training images an agent."""
    kept = images * (1 - DataConfig().validation)
    full = dict(spent) | {"training": spent["training"] * FULL / images}
    for part, looked_at in (
        ("matching", RunConfig().matching.images),
        ("recalibration", RunConfig().recalibration.images),
    ):
        full[part] = spent.get(part, 0.0) * looked_at / min(looked_at, kept)
    totals = sum(spent.values()), sum(full.values())
    found = {p: (spent.get(p, 0.0), full.get(p, 0.0)) for p in PARTS}
    together = tuple(sum(found[p][k] for p in MERGE) for k in (0, 1))
    found[TOGETHER] = (together[0], together[1])
    return {p: (a, a / totals[0], b / totals[1]) for p, (a, b) in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data", default=f"npz:{CIFAR}")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    images, rounds = (1000, 3) if options.small else (FULL, 4)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.precision}, ", end="")
    print(f"{images} images an agent\n")
    table(measured(options, images, rounds), images)


if __name__ == "__main__":
    main()
