"""What merging is worth on digits: 5 agents on a ring, 3 seeds, `dimat run` but for what is named.

.venv/bin/python -m benchmarks.digits             # methods side by side: 4 minutes on 2 cores
.venv/bin/python -m benchmarks.digits --ways      # ways of dimat, on the demo: 2 minutes

Mean test accuracy over the agents in %, mean ± sd over seeds: before round 1, and in the last round
right after its merge / after the training that ends it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dimat import RunConfig
from dimat.experiment.config.config import (
    DataConfig,
    LossConfig,
    MatchingConfig,
    MergingConfig,
    OptimizerConfig,
)
from dimat.experiment.config.parse import config_from
from dimat.experiment.record.results import MethodResult
from dimat.experiment.run import run_or_resume

DEMO = RunConfig()
ALONE = replace(DEMO, controls=())
MIX, RESET = OptimizerConfig(on_merge="mix"), OptimizerConfig(on_merge="reset")
TREE = MatchingConfig(gauge="tree")
METHODS = {
    "the demo (independent inits)": DEMO,
    "the demo with the model `cnn` (BatchNorm)": replace(DEMO, model="cnn"),
    "the demo from one shared init": replace(DEMO, init="shared"),
    "IID throughout, 10 pre-training epochs": replace(
        DEMO, data=DataConfig(split="iid"), pretrain_epochs=10
    ),
    "by class from scratch": replace(DEMO, data=DataConfig(split="by-class")),
    "Dirichlet(0.1) from scratch": replace(DEMO, data=DataConfig(split="dirichlet", alpha=0.1)),
}
WAYS = {
    "as it is (here `adjusted` logits, `gram`, `spread`)": ALONE,
    "`--merging.combine average`": replace(ALONE, merging=MergingConfig(combine="average")),
    "`--loss.logits plain`": replace(ALONE, loss=LossConfig(logits="plain")),
    "`average` and `plain`": replace(
        ALONE, merging=MergingConfig(combine="average"), loss=LossConfig(logits="plain")
    ),
    "`--preset paper`": config_from("paper", {"controls": ()}),
    "`--matching.null_margin null`": replace(ALONE, matching=MatchingConfig(null_margin=None)),
    "`--optimizer.on_merge mix`": replace(ALONE, optimizer=MIX),
    "`--optimizer.on_merge reset`": replace(ALONE, optimizer=RESET),
    "`--matching.gauge tree`": replace(ALONE, matching=TREE),
    "`tree`, matched in every round (`--matching.every 1`)": replace(
        ALONE, matching=replace(TREE, every=1)
    ),
    "`tree`, `--matching.statistics pooled`": replace(
        ALONE, matching=replace(TREE, statistics="pooled")
    ),
    "`tree`, `pooled` and `mix`": replace(
        ALONE, matching=replace(TREE, statistics="pooled"), optimizer=MIX
    ),
    "`--matching.gauge pairwise`": replace(ALONE, matching=MatchingConfig(gauge="pairwise")),
}
SEEDS = range(3)


def spread(values: Sequence[float]) -> str:
    """Mean ± sample sd, of fractions, in %.

    >>> spread([0.5, 0.52])
    '51.0 ± 1.4'
    """
    sd = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{sd}"


def cell(results: Sequence[MethodResult]) -> str:
    """After the last merge / after the last training; of what never merges the second alone."""
    found = []
    for phase in ("merged_accuracy_mean", "trained_accuracy_mean"):
        values = [own.summary[phase] for own in results]
        found += [spread([float(str(x)) for x in values])] if None not in values else []
    return " / ".join(found)


def table(cases: Mapping[str, RunConfig]) -> None:
    """A line for each case, methods side by side; agents that set out alike are trained once."""
    first = next(iter(cases.values()))
    names = (first.method, *first.controls)
    print(f"| | pre-trained | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, config) in enumerate(cases.items()):
            own = [replace(config, seed=s, out=f"{folder}/{number}-{s}") for s in SEEDS]
            runs = [run_or_resume(one, pretrained=Path(folder, "pretrained")) for one in own]
            start = spread([float(str(r.main.summary["start_accuracy_mean"])) for r in runs])
            methods = zip(*((r.main, *r.controls) for r in runs), strict=True)
            print(f"| {name} | {start} | {' | '.join(map(cell, methods))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ways", action="store_true", help="ways of dimat, on the demo")
    table(WAYS if parser.parse_args().ways else METHODS)


if __name__ == "__main__":
    main()
