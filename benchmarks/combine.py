"""Average against regression in ``dimat run``: small CIFAR-10, a small CNN, 5 agents on a ring.

.venv/bin/python -m benchmarks.combine          # DIMAT_CIFAR10 names the .npz; some 10 minutes

5,000 training images (1,000 an agent), 8 pre-training epochs from independent inits, 4 rounds of
one local epoch, Adam 1e-3, bfloat16; matching, fitting and BatchNorm see the agent's own images.
Mean test accuracy over agents, in %, by round: right after the merge, and (after the local training
that follows); mean ± sd over seeds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path

from dimat import RunConfig, run
from dimat.experiment.config.config import DataConfig, MatchingConfig, MergingConfig

SPLITS = ("iid", "by-class", "iid-then-by-class")


def config(split: str, combine: str, seed: int) -> RunConfig:
    source = f"npz:{os.environ.get('DIMAT_CIFAR10', '/tmp/cifar10.npz')}"
    return RunConfig(
        model="cnn",
        rounds=4,
        pretrain_epochs=8,
        batch_size=50,
        controls=(),
        seed=seed,
        threads=int(os.environ.get("THREADS", "2")),
        precision="bfloat16",
        data=DataConfig(source, split, augment=True, validation=0.0, train_images=5000),
        matching=MatchingConfig(images=1000),
        merging=MergingConfig(combine),
        out=f"runs/combine/{split}-{combine}-{seed}",
        overwrite=True,
    )


def by_round(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]

    def mean(number: int, phase: str) -> float:
        own = [x["test_accuracy"] for x in lines if (x["round"], x["phase"]) == (number, phase)]
        return 100 * statistics.fmean(own) if own else float("nan")

    rounds = sorted({x["round"] for x in lines})
    return [(mean(r, "merged"), mean(r, "trained")) for r in rounds]


def main(seeds: list[int]) -> None:
    for split in SPLITS:
        for combine in ("average", "regression"):
            found = []
            for seed in seeds:
                own = config(split, combine, seed)
                done = Path(str(own.out)) / "summary.json"
                if not done.exists():  # so that a stopped table goes on where it was
                    run(own)
                found.append(by_round(done.parent))
            cells = []
            for parts in list(zip(*found, strict=True))[1:]:
                merged, trained = ([p[k] for p in parts] for k in (0, 1))
                cells.append(f"{_spread(merged)} ({_spread(trained)})")
            print(f"| {split} | {combine} | {' | '.join(cells)} |", flush=True)


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


if __name__ == "__main__":
    main([int(x) for x in sys.argv[1:]] or [0, 1])
