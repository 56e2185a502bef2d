"""The numbers in the README: digits, 5 agents on a ring, 3 seeds, mean ± sd over seeds.

.venv/bin/python benchmarks/claims.py            # 3 minutes on 2 cores
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace

from dimat import RunConfig, run
from dimat.experiment.config import DataConfig, MatchingConfig, OptimizerConfig

BASE = RunConfig()
BY_CLASS = DataConfig(split="by-class")
CASES = {
    "the demo": BASE,
    "the demo, gauge pairwise": replace(BASE, matching=MatchingConfig(gauge="pairwise")),
    "the demo, matched every round": replace(BASE, matching=MatchingConfig(every=1)),
    "the demo, optimizer reset": replace(BASE, optimizer=OptimizerConfig(on_merge="reset")),
    "the demo, model cnn": replace(BASE, model="cnn"),
    "the demo, shared init": replace(BASE, init="shared"),
    "by class from scratch": replace(BASE, data=BY_CLASS),
    "by class, 1 epoch, 40 rounds": replace(BASE, data=BY_CLASS, pretrain_epochs=1, rounds=40),
    "iid, 10 epochs": replace(BASE, data=DataConfig(split="iid"), pretrain_epochs=10),
}


def main() -> None:
    for name, config in CASES.items():
        rows = []
        for seed in range(3):
            with tempfile.TemporaryDirectory() as folder:
                result = run(replace(config, seed=seed, out=f"{folder}/run"))
            methods = (result.main, *result.controls)
            rows.append([100 * float(str(m.summary["test_accuracy_mean"])) for m in methods])
        columns = zip(*rows, strict=True)
        shown = [f"{statistics.fmean(c):.1f} ± {statistics.stdev(c):.1f}" for c in columns]
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
