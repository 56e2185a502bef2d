"""One unit order for all or one for each: digits, a ring, IID pre-training, then one class each.

.venv/bin/python benchmarks/gauge.py            # the table in docs/gauge.md, 3 seeds
.venv/bin/python benchmarks/gauge.py --drift    # what the drift test costs
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

import dimat.methods
from dimat import RunConfig, run
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
from dimat.matching import Activations
from dimat.matching.assignment import Scores
from dimat.methods import Dimat, RoundContext, RoundResult
from dimat.methods.gauge import cycle_error
from dimat.methods.ordering.drift import drift
from dimat.models import build_model
from dimat.state import State
from dimat.symmetry import Analysis, analyze

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
    "tree, fault": BASE,
    "tree, fault, drift 0.5": matching(drift=0.5),
}


@dataclass(frozen=True)
class Watched(Dimat):
    """``dimat``, and what it found."""

    fault: ClassVar[bool] = False
    seconds: list[float] = field(default_factory=list)
    edges: dict[int, dict[tuple[int, int], Any]] = field(default_factory=dict)
    drifts: list[float] = field(default_factory=list)

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        symmetry = me.analysis().symmetry
        if self.fault and (me.agent, me.round) == (1, 10):  # its id says that nothing happened
            lost = symmetry.random(torch.Generator().manual_seed(0))
            me = replace(me, state=symmetry.apply(lost, me.state))
        result = yield from super().merge(me)
        self.seconds.append(result.report.match_s)
        if result.report.drift is not None:
            self.drifts.append(result.report.drift)
        own = symmetry.inverse(result.permutation or symmetry.identity())
        for j, p in result.report.alignments.items():
            self.edges.setdefault(me.round, {})[me.agent, j] = symmetry.compose(own, p)
        return result


class Faulty(Watched):
    """The same with a fault in round 10."""

    fault = True


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
    dimat.methods.METHODS["dimat"] = Faulty if "fault" in name else Watched
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


def cost_of_drift() -> None:
    """Against a forward pass over 1000 images, and against comparing one neighbor's activations."""
    torch.set_num_threads(1)
    print("| model | drift ms | forward ms | activations ms |\n|---|---|---|---|")
    for name, size in (("mlp", 8), ("cnn", 8), ("resnet20", 32)):
        model = build_model(
            name, in_channels=1, num_classes=10, image_size=(size, size), width=1.0
        ).eval()
        analysis, state = analyze(model, (torch.zeros(2, 1, size, size),)), model.state_dict()
        batches = [torch.randn(250, 1, size, size) for _ in range(4)]
        tests = (
            lambda a=analysis, s=state: drift(a, s, s),
            lambda m=model, b=batches: [m(x) for x in b],
            lambda a=analysis, s=state, b=batches: _scores(a, s, b),
        )
        with torch.no_grad():
            times = [min(_seconds(test) for _ in range(3)) for test in tests]
        print(f"| {name} | {' | '.join(f'{1e3 * t:.1f}' for t in times)} |", flush=True)


def _scores(analysis: Analysis, state: State, batches: Sequence[Tensor]) -> Scores:
    """The scores of a state's units with its own, from one pass over the batches."""
    how = Activations()
    (moments,) = how.measure(analysis, [state], [state], batches)
    return how.scores(moments)


def drift_of_the_demo() -> None:
    """The largest drift of any agent in any round of a run without faults."""
    for model in ("mlp", "cnn"):
        config = replace(
            RunConfig(), model=model, controls=(), threads=1, matching=MatchingConfig(drift=1.0)
        )
        with tempfile.TemporaryDirectory() as folder:
            run(replace(config, out=f"{folder}/run"))
            lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        known = [d for line in lines if (d := json.loads(line)["drift"]) is not None]
        print(f"{model}: largest drift {max(known)} over {len(known)} agents and rounds")


def _seconds(test: Any) -> float:
    start = time.perf_counter()
    test()
    return time.perf_counter() - start


if __name__ == "__main__":
    if "--drift" in sys.argv:
        cost_of_drift()
        drift_of_the_demo()
    else:
        table()
