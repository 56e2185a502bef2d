"""One unit order for all or one for each: digits, a ring, IID pre-training, then one class each.

.venv/bin/python benchmarks/gauge.py            # the table in docs/gauge.md, 3 seeds
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import dimat.methods
from dimat import RunConfig
from dimat.exchange import Talk
from dimat.exchange.collectives import Collectives
from dimat.exchange.world import SINGLE_PROCESS
from dimat.experiment.config.config import MatchingConfig, OptimizerConfig
from dimat.experiment.progress import Silent
from dimat.experiment.record.run_folder import RunFolder
from dimat.experiment.record.writer import RunWriter
from dimat.experiment.running.pretrain import Pretraining
from dimat.experiment.running.rounds import Rounds
from dimat.experiment.setup import Setup, make_setup
from dimat.methods import Dimat, RoundContext, RoundResult
from dimat.methods.gauge import cycle_error

SEEDS = range(3)
AGENTS = (5, 10, 20)
TREE = MatchingConfig(gauge="tree")
BASE = RunConfig(batch_size=16, controls=(), threads=1, eval_every=20, matching=TREE)


def matching(**settings: Any) -> RunConfig:
    return replace(BASE, matching=replace(TREE, **settings))


def memory(on_merge: Any, config: RunConfig = BASE) -> RunConfig:
    return replace(config, optimizer=OptimizerConfig(on_merge=on_merge))


WA = replace(BASE, method="wa")
CASES = {
    "plain average": WA,
    "plain average, optimizer mix": memory("mix", WA),
    "plain average, optimizer reset": memory("reset", WA),
    "tree": BASE,
    "tree, no sweeps": matching(sweeps=0),
    "tree, pooled": matching(statistics="pooled"),
    "tree, every round": matching(every=1),
    "tree, every round, pooled": matching(every=1, statistics="pooled"),
    "pairwise": matching(gauge="pairwise"),
    "pairwise, pooled": matching(gauge="pairwise", statistics="pooled"),
    "tree, optimizer mix": memory("mix"),
    "tree, optimizer reset": memory("reset"),
    "pairwise, pooled, optimizer mix": memory(
        "mix", matching(gauge="pairwise", statistics="pooled")
    ),
    "tree, pooled, optimizer mix": memory("mix", matching(statistics="pooled")),
}


@dataclass(frozen=True)
class Watched(Dimat):
    """``dimat``, and what it found."""

    seconds: list[float] = field(default_factory=list)
    edges: dict[int, dict[tuple[int, int], Any]] = field(default_factory=dict)

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        symmetry = me.analysis().symmetry
        result = yield from super().merge(me)
        self.seconds.append(result.report.match_s)
        own = symmetry.inverse(result.permutation or symmetry.identity())
        for j, p in result.report.alignments.items():
            self.edges.setdefault(me.round, {})[me.agent, j] = symmetry.compose(own, p)
        return result


def prepared(agents: int, seed: int) -> tuple[Setup, Any]:
    setup = make_setup(replace(BASE, agents=agents, seed=seed))
    return setup, Pretraining(setup, everybody(setup), Silent(), None).run()


def everybody(setup: Setup) -> Collectives:
    agents = setup.config.agents
    return Collectives(SINGLE_PROCESS.transport(agents), agents)


def measured(setup: Setup, snapshots: Any, name: str, case: RunConfig) -> dict[str, float]:
    own = setup.config
    config = replace(case, agents=own.agents, seed=own.seed)
    twin = replace(setup, config=config)
    twin.__dict__.update(analysis=setup.analysis, test=setup.test)
    dimat.methods.METHODS["dimat"] = Watched
    with tempfile.TemporaryDirectory() as folder:
        record = RunFolder.create(Path(folder) / "run", config, config.method)
        writer = RunWriter(twin, config.method, record, Silent())
        rounds = Rounds(twin, config.method, everybody(twin), Silent(), writer)
        seen = rounds.method
        result = rounds.run(dict(snapshots))
    assert result is not None, "agent 0 lives here"
    found = result.summary
    numbers = {
        "accuracy": 100 * float(str(found["test_accuracy_mean"])),
        "kB": float(str(found["sent_bytes"])) / 1e3 / config.rounds / config.agents,
    }
    if isinstance(seen, Watched):
        numbers["ms"] = 1e3 * sum(seen.seconds) / config.rounds / config.agents
        complete = [e for e in seen.edges.values() if len(e) == 2 * twin.topology.graph.size()]
        errors = [cycle_error(setup.analysis.symmetry, twin.topology.graph, e) for e in complete]
        numbers["cycle"] = 100 * statistics.fmean(errors) if errors else 0.0
    return numbers


def shown(rows: list[dict[str, float]]) -> Iterator[str]:
    accuracy = [row["accuracy"] for row in rows]
    yield f"{statistics.fmean(accuracy):.1f} ± {statistics.stdev(accuracy):.1f}"
    for key, digits in (("ms", 1), ("cycle", 0), ("kB", 0)):
        known = [row[key] for row in rows if key in row]
        yield f"{statistics.fmean(known):.{digits}f}" if known else "–"


def table() -> None:
    torch.set_num_threads(1)
    for agents in AGENTS:
        started = time.perf_counter()
        starts = [prepared(agents, seed) for seed in SEEDS]
        print(f"\nN = {agents}\n\n| | accuracy % | match ms | cycle error % | sent kB |")
        print("|---|---|---|---|---|")
        for name, case in CASES.items():
            rows = [measured(setup, snapshots, name, case) for setup, snapshots in starts]
            print(f"| {name} | {' | '.join(shown(rows))} |", flush=True)
        print(f"\n({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    table()
