"""One of six agents lies: accuracy of the others by rule, and what rules cost if none does.

.venv/bin/python -m benchmarks.robust            # the table in docs/robust.md, 3 seeds
.venv/bin/python -m benchmarks.robust --small    # one seed, one row of each rule, few rounds
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dimat.methods
from dimat import RunConfig
from dimat.data import Shard
from dimat.exchange import Message, Talk
from dimat.exchange.collectives import Collectives
from dimat.exchange.world import SINGLE_PROCESS
from dimat.experiment.config.config import (
    DataConfig,
    ExchangeConfig,
    MatchingConfig,
    MergingConfig,
    TopologyConfig,
)
from dimat.experiment.progress import Silent
from dimat.experiment.record.run_folder import RunFolder
from dimat.experiment.record.writer import RunWriter
from dimat.experiment.running.pretrain import Pretrained, Pretraining
from dimat.experiment.running.rounds import Rounds
from dimat.experiment.setup import Setup, make_setup
from dimat.methods import METHODS, Averaging, Dimat, Method, RoundContext, RoundResult
from dimat.methods.robust import mix_heard
from dimat.state import consensus_distance
from dimat.topology import GraphOptions, build_topology

LIAR = 3
BASE = RunConfig(
    agents=6, rounds=20, pretrain_epochs=5, batch_size=16, controls=(), threads=1, eval_every=20
)
SPLITS = {"IID": DataConfig(split="iid"), "Dirichlet .1": DataConfig(split="dirichlet", alpha=0.1)}
DEGREE_4 = TopologyConfig("random-regular", degree=4)
SETTINGS = {
    "dimat, ring": BASE,
    "dimat, degree 4": replace(BASE, topology=DEGREE_4),
    "dimat pairwise, degree 4": replace(
        BASE, topology=DEGREE_4, matching=MatchingConfig(gauge="pairwise")
    ),
    "wa of one init, degree 4": replace(BASE, method="wa", init="shared", topology=DEGREE_4),
}
AVERAGE = MergingConfig("average")
Lie = Callable[[Message, RoundContext], Mapping[str, Tensor]]


def sign_flipped(message: Message, me: RoundContext) -> dict[str, Tensor]:
    return {key: -x if key in me.parameters else x for key, x in message.items()}


def noise(message: Message, me: RoundContext) -> dict[str, Tensor]:
    """Random parameters, each tensor of the norm that it has."""
    random = torch.Generator().manual_seed(me.round)
    found = dict(message)
    for key in [key for key in message if key in me.parameters]:
        drawn = torch.randn(message[key].shape, generator=random)
        found[key] = drawn * (message[key].norm() / drawn.norm())
    return found


def loud_noise(message: Message, me: RoundContext) -> dict[str, Tensor]:
    """The same at five times the norm; `max_norm_ratio` lets in ten times."""
    found = noise(message, me)
    return {key: 5 * x if key in me.parameters else x for key, x in found.items()}


LIES: dict[str, Lie | None] = {
    "nobody": None,
    "sign": sign_flipped,
    "noise": noise,
    "noise × 5": loud_noise,
    "labels": None,
}


def told(talk: Talk[RoundResult], me: RoundContext, lie: Lie) -> Talk[RoundResult]:
    """A talk in which every state that is sent is a lie."""
    try:
        step = next(talk)
        while True:
            sent = {j: lie(message, me) for j, message in step.send.items()}
            step = talk.send((yield replace(step, send=sent)))
    except StopIteration as stop:
        result: RoundResult = stop.value
        return result


def lying(kind: type[Method], lie: Lie) -> type[Method]:
    """The method, of which one agent tells lies, and merges what it hears as the others do."""

    class Lying(kind):  # type: ignore[misc,valid-type]
        def merge(self, me: RoundContext) -> Talk[RoundResult]:
            talk = super().merge(me)
            return (yield from told(talk, me, lie) if me.agent == LIAR else talk)

    return Lying


class WrongLabels(Setup):
    """A run in which one agent has learned that a 0 is a 9, a 1 an 8, and so on."""

    def shard(self, agent: int, *, pretraining: bool) -> Shard:
        if agent != LIAR:
            return super().shard(agent, pretraining=pretraining)
        turned = replace(self.dataset, train_y=9 - self.dataset.train_y)
        own = Setup(self.config, turned, self.parts, self.topology, self.held_out)
        return own.shard(agent, pretraining=pretraining)


KINDS: tuple[type[Setup], ...] = (Setup, WrongLabels)
Starts = Mapping[type[Setup], tuple[Setup, Mapping[int, Pretrained]]]


def everybody(setup: Setup) -> Collectives:
    agents = setup.config.agents
    return Collectives(SINGLE_PROCESS.transport(agents), agents)


def prepared(config: RunConfig, kind: type[Setup]) -> tuple[Setup, dict[int, Pretrained]]:
    plain = make_setup(config)
    setup = kind(plain.config, plain.dataset, plain.parts, plain.topology)
    return setup, Pretraining(setup, everybody(setup), Silent(), None).run()


def accuracy(
    start: tuple[Setup, Mapping[int, Pretrained]], lie: Lie | None, **settings: Any
) -> float:
    """Mean test accuracy of the honest agents after the last merge, in %."""
    setup, snapshots = start
    twin = replace(setup, config=replace(setup.config, **settings))
    twin.__dict__.update(analysis=setup.analysis, test=setup.test)
    name = twin.config.method
    honest: type[Method] = {"dimat": Dimat, "wa": Averaging}[name]
    dimat.methods.METHODS[name] = lying(honest, lie) if lie else honest
    try:
        with tempfile.TemporaryDirectory() as folder:
            record = RunFolder.create(Path(folder) / "run", twin.config, name)
            writer = RunWriter(twin, name, record, Silent())
            result = Rounds(twin, name, everybody(twin), Silent(), writer).run(dict(snapshots))
    finally:
        METHODS[name] = honest
    assert result is not None, "agent 0 lives here"
    found = [own.merged or 0.0 for own in result.agents if own.agent != LIAR]
    return 100 * statistics.fmean(found)


def row(starts: list[Starts], rule: Any, merging: MergingConfig) -> Iterator[str]:
    """The accuracies by lie, of agents that start from the same pre-trained ones for each rule."""
    for name, lie in LIES.items():
        if merging.combine == "gram" and name != "nobody":
            yield "–"  # statistics grow out of proportion, which ends a run
            continue
        kind = WrongLabels if name == "labels" else Setup
        exchange = ExchangeConfig(robust=rule)
        found = [accuracy(own[kind], lie, exchange=exchange, merging=merging) for own in starts]
        spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        yield f"{statistics.fmean(found):.1f}{spread}"


def mixing_alone(name: str, agents: int, rule: Any, rounds: int = 20) -> tuple[float, float]:
    """Factor of the distance from the mean in a round, and the mean's way in initial distances."""
    topology = build_topology(name, agents, options=GraphOptions(degree=4)).at(0)
    random = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(1000, generator=random)} for _ in range(agents)]
    first, mean = consensus_distance(states, ["w"]), torch.stack([x["w"] for x in states]).mean(0)
    for _ in range(rounds):
        them = [
            RoundContext(i, 1, x, topology, ["w"], lambda: None, list)  # type: ignore[arg-type,return-value]
            for i, x in enumerate(states)
        ]
        states = [
            mix_heard(me, dict(me.state), {j: states[j] for j in me.neighbors}, rule) for me in them
        ]
    after = torch.stack([x["w"] for x in states]).mean(0)
    left = consensus_distance(states, ["w"])
    return (left / first) ** (1 / rounds), float((after - mean).norm()) / first


def mixing() -> None:
    print("\n| | robust | distance after a round | way of the mean in 20 |\n|---|---|---|---|")
    for name, agents in (("ring", 6), ("ring", 20), ("random-regular", 20)):
        for rule in ("none", "clip", "trimmed"):
            factor, way = mixing_alone(name, agents, rule)
            print(f"| {name} of {agents} | {rule} | × {factor:.2f} | {way:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="one seed, one setting, three rounds")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    settings, splits, seeds = SETTINGS, SPLITS, range(1 if small else 3)
    if small:
        quick = replace(BASE, rounds=3, pretrain_epochs=2, eval_every=3, topology=DEGREE_4)
        settings, splits = {"dimat, degree 4": quick}, {"IID": SPLITS["IID"]}
    print(f"| | robust | {' | '.join(LIES)} |\n|{'---|' * (len(LIES) + 2)}")
    for split_name, split in splits.items():
        for name, setting in settings.items():
            rules = [("none", AVERAGE), ("clip", AVERAGE), ("trimmed", AVERAGE)]
            if setting.method == "dimat" and split_name != "IID":
                rules.insert(0, ("none", MergingConfig("gram")))
            starts = [
                {k: prepared(replace(setting, data=split, seed=seed), k) for k in KINDS}
                for seed in seeds
            ]
            for rule, merging in rules:
                shown = "none, gram" if merging.combine == "gram" else rule
                cells = " | ".join(row(starts, rule, merging))
                print(f"| {name}, {split_name} | {shown} | {cells} |", flush=True)
    mixing()


if __name__ == "__main__":
    main()
