"""Agents that train side by side in one stack come to where they would have come alone."""

from __future__ import annotations

import itertools
import json
import threading
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.tiers import tiers
from torch import nn

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError, Stopped, TrainingError
from dimat.exchange.collectives import Collectives
from dimat.exchange.in_process import InProcess
from dimat.experiment.config.config import (
    DataConfig,
    LossConfig,
    MatchingConfig,
    OptimizerConfig,
    TopologyConfig,
)
from dimat.experiment.digests import pretrain_digest
from dimat.experiment.progress import Silent
from dimat.experiment.running import pretrain, rounds
from dimat.experiment.running.vectorized import (
    _bits,
    train_all,
    train_at_once,
    trains_at_once,
    tried,
)
from dimat.experiment.setup import Setup, make_setup
from dimat.merging.optimizer import memory_of
from dimat.training import stacked
from dimat.training.snapshot import Snapshot
from dimat.training.trainer import LocalTrainer

IID = DataConfig(split="iid")
CONFIG = RunConfig(
    agents=4, model="cnn", width=0.5, batch_size=16, threads=1, vectorize=3, data=IID
)
TIMES = ("match_s", "merge_s", "train_s", "wall_s", "busy_s")


def trained(
    config: RunConfig, steps: list[int], *, double: bool = True
) -> tuple[list[LocalTrainer], list[int]]:
    """Agents after so many steps each; and of how many it was told, each time.

    In float64: Adam turns the rounding of a gradient that is zero into a step.
    """
    setup = make_setup(config)
    agents = [setup.new_agent(i, pretraining=False) for i in range(config.agents)]
    for agent in agents if double else ():
        agent.model.double()
        stream = agent._stream
        agent._stream = ((x.double(), y) for x, y in stream)
    return agents, told_of(setup, agents, steps)


def told_of(setup: Setup, agents: list[LocalTrainer], steps: list[int]) -> list[int]:
    """Train; of how many agents it was told, each time that there were any."""
    told: list[int] = []
    train_all(setup, agents, steps, lambda own: told.append(len(own)))
    return [count for count in told if count]


def check_alike(ours: LocalTrainer, theirs: LocalTrainer, tolerance: float = 2e-6) -> None:
    assert (ours.steps, ours.epochs, ours.lr) == (theirs.steps, theirs.epochs, theirs.lr)
    schedules = [own.schedule.state_dict() for own in (ours, theirs)]
    assert {**schedules[0], "lr_lambdas": 0} == {**schedules[1], "lr_lambdas": 0}
    for key, value in theirs.state().items():
        torch.testing.assert_close(ours.state()[key], value, rtol=1e-4, atol=tolerance)
    memories = [memory_of(own.optimizer, own.model) for own in (ours, theirs)]
    assert memories[0].keys() == memories[1].keys()
    for kind, own in memories[1].items():
        for key, value in own.items():
            found = memories[0][kind][key]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=tolerance)
            layouts = [torch.empty_like(own).stride() for own in (found, value)]
            assert layouts[0] == layouts[1] or 1 in value.shape[1:2]  # whose stride says nothing
    assert ours.loss() == pytest.approx(theirs.loss(), rel=1e-4)


EVERY = [(x, y) for x in ("mlp", "cnn", "resnet20") for y in ("sgd", "msgd", "adam", "adamw")]
FAST = [("mlp", "adam"), ("mlp", "adamw"), ("cnn", "sgd"), ("cnn", "msgd"), ("resnet20", "adam")]


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [pytest.param(*own, marks=[pytest.mark.slow] * (own not in FAST)) for own in EVERY],
)
def test_every_agent_comes_to_where_it_would_have_come_alone(model: str, optimizer: str) -> None:
    """The fourth of four is left over in stacks of three."""
    own = OptimizerConfig(optimizer, lr=1e-3, weight_decay=0.01, schedule="cosine")
    config = replace(CONFIG, model=model, width=0.25, optimizer=own)
    config = replace(config, pretrain_epochs=0, rounds=1, local_steps=6)  # the rate falls to 0
    (at_once, told), (alone, _) = (
        trained(replace(config, vectorize=k), [5] * 4) for k in (3, 1)
    )  # fmt: skip
    assert told == [3, 1]
    for ours, theirs in zip(at_once, alone, strict=True):
        assert ours.steps == 5
        check_alike(ours, theirs)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="refused on a CPU")
def test_in_bfloat16_too() -> None:
    """As near as its rounding lets a step be: the loss, BatchNorm's statistics, the direction."""
    config = replace(CONFIG, model="resnet20", width=0.25, precision="bfloat16", device="cuda")
    config = replace(config, optimizer=OptimizerConfig("sgd", lr=0.01))
    setup = make_setup(config)
    start = [setup.new_agent(i, pretraining=False).state() for i in range(4)]
    (at_once, _), (alone, _) = (
        trained(replace(config, vectorize=k), [1] * 4, double=False) for k in (4, 1)
    )  # fmt: skip
    for ours, theirs, before in zip(at_once, alone, start, strict=True):
        assert ours.loss() == pytest.approx(theirs.loss(), rel=0.02)
        ends = ours.state(), theirs.state()
        for key in before:
            if "running" in key:
                torch.testing.assert_close(ends[0][key], ends[1][key], rtol=0.02, atol=2e-3)
        steps = [
            torch.cat([(end[key] - before[key]).flatten() for key in ours.parameters])
            for end in ends
        ]
        assert 0.9 < float(torch.cosine_similarity(*steps, dim=0)) < 0.999  # in float32 it is 1


def test_tied_and_frozen_parameters_stay_tied_and_frozen() -> None:
    config = replace(CONFIG, model=f"{__name__}:Tied", width=1.0)
    (at_once, _), (alone, _) = (trained(replace(config, vectorize=k), [4] * 4) for k in (4, 1))
    for ours, theirs in zip(at_once, alone, strict=True):
        check_alike(ours, theirs)
        state = ours.state()
        assert torch.equal(state["first.weight"], state["second.weight"])
        assert torch.equal(state["first.bias"], torch.ones(64, dtype=torch.float64))


def test_buffers_that_a_model_replaces_and_numbers_that_it_learns_are_each_agents_own() -> None:
    config = replace(CONFIG, model=f"{__name__}:Averaging", width=1.0, vectorize=4)
    (at_once, told), (alone, _) = (trained(replace(config, vectorize=k), [4] * 4) for k in (4, 1))
    assert told == [4]
    for ours, theirs in zip(at_once, alone, strict=True):
        check_alike(ours, theirs)
        assert float(ours.state()["count"]) == 4
        assert float(ours.state()["seen"].abs().sum()) > 0.01
    assert told_of(make_setup(config), at_once, [1] * 4) == [4]


def test_one_agent_that_diverges_leaves_the_others_as_they_are() -> None:
    setup = make_setup(replace(CONFIG, vectorize=4))
    agents, twins = ([setup.new_agent(i, pretraining=False) for i in range(4)] for _ in range(2))
    with torch.no_grad():
        next(iter(agents[2].parameters.values())).fill_(float("nan"))
    for own in (agents, twins):
        told_of(setup, own, [3] * 4)
    for i in (0, 1, 3):
        assert all(torch.equal(v, twins[i].state()[k]) for k, v in agents[i].state().items())
    with pytest.raises(TrainingError, match="agent 2: the training loss is not finite"):
        agents[2].loss()


def test_each_has_the_loss_of_its_own_classes() -> None:
    config = replace(CONFIG, data=DataConfig(split="by-class"), loss=LossConfig("adjusted"))
    config = replace(config, pretrain_epochs=0, rounds=1, optimizer=OptimizerConfig("msgd", 0.01))
    (at_once, told), (alone, _) = (
        trained(replace(config, vectorize=k), [3] * 4) for k in (4, 1)
    )  # fmt: skip
    assert told == [4]
    for ours, theirs in zip(at_once, alone, strict=True):
        check_alike(ours, theirs)


def test_each_gradient_is_cut_to_its_norm_and_rates_rise_as_they_would_alone() -> None:
    own = OptimizerConfig("sgd", 0.5, warmup_steps=4, clip_norm=0.5)
    config = replace(CONFIG, model="mlp", width=0.25, optimizer=own, pretrain_epochs=0)
    (at_once, told), (alone, _) = (trained(replace(config, vectorize=k), [6] * 4) for k in (4, 1))
    assert told == [4]
    for ours, theirs in zip(at_once, alone, strict=True):
        check_alike(ours, theirs)
    free = replace(config, optimizer=replace(own, clip_norm=None), vectorize=4)
    apart, _ = trained(free, [6] * 4)
    key = next(iter(apart[0].state()))
    assert not torch.allclose(apart[0].state()[key], at_once[0].state()[key])  # it was cut


@pytest.mark.parametrize("model", ["mlp", "resnet20", f"{__name__}:Tied"])
def test_each_is_distilled_from_the_network_that_it_began_with(model: str) -> None:
    """In stacks that shrink, too; with BatchNorm, which normalizes by the batch in both."""
    width = 1.0 if ":" in model else 0.25  # of the built-in ones
    loss = LossConfig("adjusted", distill=2.0, label_smoothing=0.1)
    config = replace(CONFIG, model=model, width=width, data=DataConfig(split="by-class"), loss=loss)
    config = replace(config, pretrain_epochs=0, rounds=1, optimizer=OptimizerConfig("msgd", 0.05))
    found = {}
    for k in (4, 1):
        setup = make_setup(replace(config, vectorize=k))
        agents = [setup.new_agent(i, pretraining=False) for i in range(4)]
        for agent in agents:
            agent.model.double()
            agent._stream = ((x.double(), y) for x, y in agent._stream)
            agent.begin_training()
        teachers = [{key: v.clone() for key, v in (a.teacher or {}).items()} for a in agents]
        told = told_of(setup, agents, [3, 5, 3, 3])
        assert k == 1 or told == [3, 1]
        for agent, before in zip(agents, teachers, strict=True):
            assert before
            assert agent.teacher is not None
            assert all(
                torch.equal(agent.teacher[key], v)
                for key, v in before.items()
                if key in agent.parameters
            )
        found[k] = agents
    for ours, theirs in zip(found[4], found[1], strict=True):
        check_alike(ours, theirs)


def test_agents_with_unequal_shards_each_take_their_own_steps() -> None:
    data = DataConfig(split="dirichlet", alpha=0.3)
    config = replace(CONFIG, agents=6, data=data, optimizer=OptimizerConfig("msgd", lr=0.01))
    steps = [4, 7, 4, 0, 7, 4]
    (at_once, _), (alone, _) = (
        trained(replace(config, vectorize=k), steps) for k in (6, 1)
    )  # fmt: skip
    assert [a.steps for a in at_once] == steps
    for ours, theirs, count in zip(at_once, alone, steps, strict=True):
        if count:
            check_alike(ours, theirs)


@pytest.mark.parametrize("name", ["adam", "msgd"])
@pytest.mark.parametrize("who", [0, 2])
def test_who_forgot_its_memory_is_not_stacked_with_those_who_kept_theirs(
    name: str, who: int
) -> None:
    """Adam corrects for the steps it has taken: one number for a stack; momenta are all or none."""
    config = replace(CONFIG, vectorize=4, optimizer=OptimizerConfig(name, lr=1e-3))
    setup, alone = make_setup(config), make_setup(replace(config, vectorize=1))
    agents = [setup.new_agent(i, pretraining=False) for i in range(4)]
    told_of(setup, agents, [2] * 4)
    agents[who].optimizer.state.clear()
    expected = [setup.new_agent(i, pretraining=False) for i in range(4)]
    for agent, twin in zip(agents, expected, strict=True):
        agent.loss()
        Snapshot.of(agent).restore(twin)
    assert sorted(told_of(setup, agents, [3] * 4)) == [1, 3]
    told_of(alone, expected, [3] * 4)
    for agent, twin in zip(agents, expected, strict=True):
        check_alike(agent, twin, 3e-4)


def test_whose_learning_rates_fall_at_another_pace_train_apart() -> None:
    data = DataConfig(split="dirichlet", alpha=0.3)
    own = OptimizerConfig("msgd", lr=0.01, schedule="cosine")
    config = replace(CONFIG, data=data, optimizer=own, rounds=1, pretrain_epochs=0)
    setup = make_setup(replace(config, vectorize=4))
    lengths = [setup.round_steps(i) for i in range(4)]
    assert len(set(lengths)) > 1
    (at_once, told), (alone, _) = (trained(replace(config, vectorize=k), [3] * 4) for k in (4, 1))
    assert sorted(told) == sorted(lengths.count(n) for n in set(lengths))
    for ours, theirs in zip(at_once, alone, strict=True):
        check_alike(ours, theirs)


def test_with_adam_who_has_taken_other_numbers_of_steps_trains_apart() -> None:
    """With momenta alone all go on together."""
    for name, sizes in (("adam", [1, 1, 2]), ("msgd", [4])):
        config = replace(CONFIG, vectorize=4, optimizer=OptimizerConfig(name, lr=1e-3))
        setup = make_setup(config)
        agents = [setup.new_agent(i, pretraining=False) for i in range(4)]
        told_of(setup, agents, [1, 1, 2, 3])
        assert sorted(told_of(setup, agents, [2] * 4)) == sizes


@pytest.mark.parametrize("on_merge", tiers(["reset", "mix", "keep"], slow=["reset", "keep"]))
def test_agents_that_met_nobody_and_agents_that_did_go_on_as_they_would_alone(
    tmp_path: Path, on_merge: Literal["reset", "mix", "keep"]
) -> None:
    """With reset an agent forgets only if it met somebody."""
    optimizer = OptimizerConfig("msgd", lr=0.01, on_merge=on_merge)
    own = small(method="wa", rounds=3, optimizer=optimizer, data=DataConfig(split="dirichlet"))
    own = replace(own, agents=4, topology=TopologyConfig("ring", dropout=0.6))
    found = [run(replace(own, vectorize=k), tmp_path / str(k)) for k in (1, 4)]
    trained = [[x for x in own if x["phase"] == "trained"] for own in found]
    for theirs, ours in zip(*trained, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.02)


def run(config: RunConfig, folder: Path) -> list[dict[str, Any]]:
    dimat.run(replace(config, out=str(folder)))
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def small(**own: Any) -> RunConfig:
    base = replace(CONFIG, rounds=2, pretrain_epochs=2, controls=(), width=0.25)
    return replace(base, topology=TopologyConfig("star"), **own)


def test_a_run_trains_all_its_agents_at_once_in_pretraining_and_in_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run(small(vectorize=1), tmp_path / "alone")

    def never(_: LocalTrainer) -> Any:
        raise AssertionError("an agent trained by itself")

    monkeypatch.setattr(LocalTrainer, "gradient", never)
    found = run(small(vectorize=4), tmp_path / "at_once")
    assert len(found) == len(alone)
    for ours, theirs in zip(found, alone, strict=True):
        exact = ("round", "agent", "phase", "sent_bytes")
        assert [ours[k] for k in exact] == [theirs[k] for k in exact]
        assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.05)
    assert run(small(vectorize=4), tmp_path / "again") == found


def test_what_is_kept_of_pretraining_is_of_one_epoch_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else agents would be stacked otherwise when it goes on, and round otherwise."""
    kept: list[set[int]] = []
    original = pretrain.Pretraining._keep

    def watched(self: pretrain.Pretraining, agents: Any) -> None:
        if agents:
            kept.append({int(own["snapshot"]["counters"]["epochs"]) for own in agents})
        original(self, agents)

    monkeypatch.setattr(pretrain.Pretraining, "_keep", watched)
    monkeypatch.setattr(pretrain, "_BETWEEN_S", 0.0)
    run(small(pretrain_epochs=4), tmp_path / "run")
    assert kept == [{1}, {2}, {3}, {4}]


def test_what_is_kept_is_of_one_epoch_though_another_agent_has_trained_all_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under torchrun mail comes in any order: here agent 1 goes on before 2 has said how it is."""
    monkeypatch.setattr(pretrain, "_BETWEEN_S", 0.0)
    setup = make_setup(small(agents=3, pretrain_epochs=3, vectorize=3))
    every = Collectives(InProcess(range(3)), 3)
    own = pretrain.Pretraining(setup, every, Silent(), None)
    own.agents, own._written = [own._agent(i) for i in range(3)], 0.0
    kept: list[list[int]] = []
    monkeypatch.setattr(
        own,
        "_keep",
        lambda agents: kept.append([x["snapshot"]["counters"]["epochs"] for x in agents]),
    )
    talks = {i: own._epochs(agent, 0) for i, agent in enumerate(own.agents)}
    waiting, mail = {i: next(talk) for i, talk in talks.items()}, defaultdict[Any, list[Any]](list)
    for i, step in waiting.items():
        for to, message in step.send.items():
            mail[i, to].append(message)
    while waiting:
        ready = [i for i in (1, 0, 2) if i in waiting and all(mail[j, i] for j in waiting[i].hear)]
        inbox = {j: mail[j, ready[0]].pop(0) for j in waiting[ready[0]].hear}
        try:
            waiting[ready[0]] = talks[ready[0]].send(inbox)
        except StopIteration:
            del waiting[ready[0]]
            continue
        for to, message in waiting[ready[0]].send.items():
            mail[ready[0], to].append(message)
    assert [own for own in kept if own] == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]


def test_seconds_are_shared_out_among_those_who_trained_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that goes on by one whenever it is looked at: what is timed lasts a second."""
    setup, looks = make_setup(replace(CONFIG, vectorize=4)), itertools.count()
    agents = [setup.new_agent(i, pretraining=False) for i in range(4)]
    us = threading.get_ident()  # threads that other tests have left look at the clock too

    def clock() -> float:
        return float(next(looks)) if threading.get_ident() == us else 0.0

    monkeypatch.setattr("time.perf_counter", clock)
    told_of(setup, agents, [3, 3, 3, 6])
    spent = [agent.traffic.busy_s for agent in agents]
    assert sum(spent) == pytest.approx(next(looks) / 2)
    assert spent[0] == spent[1] == spent[2] < spent[3]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    whole = run(small(rounds=3), tmp_path / "whole")
    with pytest.raises(Stopped):
        run(small(rounds=3, max_wall_s=1e-6), tmp_path / "parts")
    for _ in range(9):
        try:
            dimat.resume(tmp_path / "parts")
        except Stopped:
            continue
        break
    lines = map(json.loads, (tmp_path / "parts/metrics.jsonl").read_text().splitlines())
    assert [{k: v for k, v in line.items() if k not in TIMES} for line in lines] == whole


@pytest.mark.parametrize("method", ["cdsgd", "swarm"])
def test_agents_that_talk_while_they_train_take_their_turns(tmp_path: Path, method: str) -> None:
    own = small(method=method, pretrain_epochs=0, local_steps=3)
    found = [run(replace(own, vectorize=k), tmp_path / str(k)) for k in (1, 4)]
    assert found[0] == found[1]


class Tied(nn.Module):
    """One weight in two layers, and a bias that is not trained."""

    def __init__(self, in_channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        size = in_channels * image_size[0] * image_size[1]
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(size, num_classes)
        nn.init.ones_(self.first.bias).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.second(self.first(x.flatten(1)).relu()).relu())
        return out


class Averaging(nn.Module):
    """One buffer is changed in place, another one replaced; and a parameter is one number."""

    def __init__(self, in_channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.last = nn.Linear(in_channels * image_size[0] * image_size[1], num_classes)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("seen", torch.zeros(num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.scale * self.last(x.flatten(1))
        if self.training:
            self.count.add_(1)
            self.seen = 0.9 * self.seen + 0.1 * out.detach().mean(0)
        return out


class Dropping(nn.Module):
    def __init__(self, in_channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * image_size[0] * image_size[1], 8),
            nn.Dropout(0.5),
            nn.Linear(8, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


def test_a_model_with_dropout_is_refused_and_told_the_way_out(tmp_path: Path) -> None:
    own = small(model=f"{__name__}:Dropping", matching=MatchingConfig(images=50), width=1.0)
    with pytest.raises(ConfigError, match=r"'vectorize' is .* use --vectorize 1 .*random"):
        run(own, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(replace(own, vectorize=1), tmp_path / "alone")


def test_a_method_of_ones_own_that_steps_otherwise_takes_its_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the step of all methods is known to be the same for a stack."""
    from dimat.methods import METHODS, Local

    class Careful(Local):
        def step(self, me: Any) -> Any:
            yield from super().step(me)

    monkeypatch.setitem(METHODS, "local", Careful)

    def never(*_: Any) -> None:
        raise AssertionError("trained at once")

    own = small(method="local", pretrain_epochs=0)
    monkeypatch.setattr(rounds, "train_all", never)
    run(own, tmp_path / "run")


SMALL = replace(CONFIG, model="mlp", width=0.3, vectorize=None)  # 38 units: tails in every kernel


@pytest.fixture(scope="module")
def exact_here() -> None:
    """Skips where this processor's library rounds stacks otherwise: agents take their turns."""
    if not tried(make_setup(SMALL)).exact_stack:
        pytest.skip("the trial says that stacks round otherwise here")


def exact(config: RunConfig, steps: int, size: int) -> list[list[torch.Tensor]]:
    """All that training has made of each agent, in exact stacks of a size; 1: one by one."""
    setup = make_setup(config)
    agents = [setup.new_agent(i, pretraining=False) for i in range(config.agents)]
    for agent in agents:
        agent.begin_training()
    for count in (steps, 1):  # the second time with the memory of the first
        for k in range(0, len(agents), size):
            own = agents[k : k + size]
            train_at_once(own, count, config.optimizer, exact=size > 1)
    return [list(_bits(agent)) for agent in agents]


@pytest.mark.usefixtures("exact_here")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["msgd", "adam"])
@pytest.mark.parametrize(
    "own",
    [
        {"data": IID},
        {"data": DataConfig(split="by-class"), "batch_size": 13},  # offsets, and distilled
        {"data": IID, "loss": LossConfig(label_smoothing=0.1)},
        {"data": IID, "optimizer": OptimizerConfig(clip_norm=0.1, ema=0.9, weight_decay=0.01)},
        {"data": IID, "width": 1.0},
    ],
)
def test_a_stack_of_linear_layers_has_the_bits_of_agents_one_by_one(
    threads: int, name: Any, own: dict[str, Any]
) -> None:
    optimizer = replace(own.get("optimizer", OptimizerConfig()), name=name, lr=0.01)
    config = replace(SMALL, **{**own, "optimizer": optimizer})
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert tried(make_setup(config)).exact_stack > 1
        for ours, theirs in zip(*(exact(config, 4, size) for size in (3, 1)), strict=True):
            assert len(ours) == len(theirs) > 6
            assert all(map(torch.equal, ours, theirs))
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("exact_here")
@pytest.mark.parametrize(
    ("own", "stacked"),
    [
        ({}, True),
        ({"model": "cnn"}, False),
        ({"vectorize": 1}, False),
        ({"agents": 1, "topology": TopologyConfig("ring")}, False),
        ({"precision": "bfloat16"}, False),
        ({"optimizer": OptimizerConfig(accumulate=2)}, False),
        ({"optimizer": OptimizerConfig("sgd", lr=1e30)}, False),  # the run will tell of it
        ({"model": f"{__name__}:Plain", "width": 1.0}, False),  # a class that is not known
        ({"model": f"{__name__}:Plain", "width": 1.0, "vectorize": 3}, True),
        ({"model": f"{__name__}:Dropping", "width": 1.0}, False),
        ({"model": f"{__name__}:Centered", "width": 1.0, "vectorize": 3}, False),
        ({"model": f"{__name__}:Averaging", "width": 1.0, "vectorize": 3}, False),
        ({"model": f"{__name__}:Tied", "width": 1.0, "vectorize": 3}, True),
    ],
)
def test_stacks_are_exact_where_a_trial_shows_it(own: dict[str, Any], stacked: bool) -> None:
    assert (tried(make_setup(replace(SMALL, **own))).exact_stack > 0) == stacked


@pytest.mark.usefixtures("exact_here")
def test_a_large_network_takes_its_turns_though_a_stack_were_exact() -> None:
    found = tried(make_setup(replace(SMALL, width=6.0)))
    assert (found.exact_stack, trains_at_once(found)) == (1, False)


@pytest.mark.usefixtures("exact_here")
@pytest.mark.parametrize("split", ["iid", "by-class"])
def test_a_run_is_the_same_one_whether_small_agents_train_in_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    own = small(model="mlp", data=DataConfig(split=split), agents=5)
    turns = run(replace(own, vectorize=1), tmp_path / "turns")
    assert run(replace(own, vectorize=3), tmp_path / "three") == turns
    original = LocalTrainer.gradient

    def trial_only(self: LocalTrainer) -> Any:
        assert self.steps < 3  # of the trial
        return original(self)

    monkeypatch.setattr(LocalTrainer, "gradient", trial_only)
    assert run(replace(own, vectorize=None), tmp_path / "auto") == turns
    digests = [
        pretrain_digest(make_setup(replace(own, vectorize=vectorize))) for vectorize in (1, None, 2)
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("numel", "threads", "same"),
    [(64, 1, True), (10, 1, False), (33, 1, False), (32, 2, False), (64, 2, True), (64, 3, False)],
)
def test_a_tail_that_fills_no_chunk_of_a_thread_is_updated_agent_by_agent(
    numel: int, threads: int, same: bool
) -> None:
    assert stacked.same_elementwise(numel, threads) == same


@pytest.mark.parametrize("batched", [True, False])
def test_products_of_a_stack_have_the_bits_of_each(
    monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    """Also where a batch of products had others, which is found out once for every shape."""
    random = torch.Generator().manual_seed(0)
    stacked._agrees.cache_clear()
    if not batched:
        off = {
            kind: lambda *own, one=one: one(*own) * 1.5 for kind, one in stacked._BATCHED.items()
        }
        monkeypatch.setattr(stacked, "_BATCHED", off)
    for shape in ((4, 7, 5, 3), (2, 32, 64, 10), (3, 16, 13, 2)):
        agents, rows, ins, outs = shape
        x, w, b = (
            torch.randn(*own, generator=random)
            for own in ((agents, rows, ins), (agents, outs, ins), (agents, outs))
        )
        leaves = [own.requires_grad_() for own in (x, w, b)]
        found = stacked._Linear.apply(*leaves)  # type: ignore[no-untyped-call]
        ours = torch.autograd.grad(found.square().sum(), leaves)
        for k in range(agents):
            alone = [own[k].detach().requires_grad_() for own in leaves]
            expected = nn.functional.linear(*alone)
            assert torch.equal(found[k], expected)
            theirs = torch.autograd.grad(expected.square().sum(), alone)
            assert all(map(torch.equal, (own[k] for own in ours), theirs))
    stacked._agrees.cache_clear()


class Plain(nn.Module):
    def __init__(self, in_channels: int, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.last = nn.Linear(in_channels * image_size[0] * image_size[1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(x.flatten(1))
        return out


class Centered(Plain):
    """Samples of a batch depend on each other, and so would agents."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return out - out.mean(0)
