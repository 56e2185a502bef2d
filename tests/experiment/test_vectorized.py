"""Agents that train side by side in one stack come to where they would have come alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dimat
from dimat import RunConfig
from dimat.agent import Agent
from dimat.errors import ConfigError, Stopped, TrainingError
from dimat.experiment import vectorized
from dimat.experiment.config import DataConfig, MatchingConfig, OptimizerConfig, TopologyConfig
from dimat.experiment.setup import make_setup
from dimat.experiment.snapshot import Snapshot
from dimat.experiment.vectorized import train_all
from dimat.merging.optimizer import memory_of

IID = DataConfig(split="iid")
CONFIG = RunConfig(
    agents=4, model="cnn", width=0.5, batch_size=16, threads=1, vectorize=3, data=IID
)
TIMES = ("match_s", "merge_s", "train_s", "wall_s", "busy_s")


def trained(
    config: RunConfig, steps: list[int], *, double: bool = True
) -> tuple[list[Agent], list[int]]:
    """Agents after so many steps each; and of how many it was told, each time.

    In float64: Adam turns the rounding of a gradient that is zero into a step.
    """
    setup = make_setup(config)
    agents = [setup.new_agent(i, pretraining=False) for i in range(config.agents)]
    for agent in agents if double else ():
        agent.model.double()
        stream = agent._stream
        agent._stream = ((x.double(), y) for x, y in stream)
    told: list[int] = []
    train_all(setup, agents, steps, told.append)
    return agents, [count for count in told if count]


def check_alike(ours: Agent, theirs: Agent, tolerance: float = 2e-6) -> None:
    assert (ours.steps, ours.epochs, ours.lr) == (theirs.steps, theirs.epochs, theirs.lr)
    assert ours.schedule.last_epoch == theirs.schedule.last_epoch
    for key, value in theirs.state().items():
        torch.testing.assert_close(ours.state()[key], value, rtol=1e-4, atol=tolerance)
    memories = [memory_of(own.optimizer, own.model) for own in (ours, theirs)]
    assert memories[0].keys() == memories[1].keys()
    for kind, own in memories[1].items():
        for key, value in own.items():
            torch.testing.assert_close(memories[0][kind][key], value, rtol=1e-4, atol=tolerance)
    assert ours.loss() == pytest.approx(theirs.loss(), rel=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "msgd", "adam", "adamw"])
@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet20"])
def test_every_agent_comes_to_where_it_would_have_come_alone(model: str, optimizer: str) -> None:
    """The fourth of four is left over in stacks of three."""
    own = OptimizerConfig(optimizer, lr=1e-3, weight_decay=0.01, schedule="cosine")
    config = replace(CONFIG, model=model, width=0.25, optimizer=own)
    (at_once, told), (alone, _) = (
        trained(replace(config, vectorize=k), [5] * 4) for k in (3, 1)
    )  # fmt: skip
    assert told == [3, 1]
    for ours, theirs in zip(at_once, alone, strict=True):
        assert ours.steps == 5
        check_alike(ours, theirs)


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


def test_one_agent_that_diverges_leaves_the_others_as_they_are() -> None:
    setup = make_setup(replace(CONFIG, vectorize=4))
    agents, twins = ([setup.new_agent(i, pretraining=False) for i in range(4)] for _ in range(2))
    with torch.no_grad():
        next(iter(agents[2].parameters.values())).fill_(float("nan"))
    for own in (agents, twins):
        train_all(setup, own, [3] * 4, lambda _: None)
    for i in (0, 1, 3):
        assert all(torch.equal(v, twins[i].state()[k]) for k, v in agents[i].state().items())
    with pytest.raises(TrainingError, match="agent 2: the training loss is not finite"):
        agents[2].loss()


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


def test_who_forgot_its_memory_is_not_stacked_with_those_who_kept_theirs() -> None:
    """Adam corrects for the steps it has taken: one number for a stack."""
    setup = make_setup(CONFIG)
    agents = [setup.new_agent(i, pretraining=False) for i in range(4)]
    train_all(setup, agents, [2] * 4, lambda _: None)
    agents[1].optimizer.state.clear()
    expected = setup.new_agent(1, pretraining=False)
    Snapshot.of(agents[1]).restore(expected)
    told: list[int] = []
    train_all(setup, agents, [3] * 4, told.append)
    train_all(replace(setup, config=replace(CONFIG, vectorize=1)), [expected], [3], told.append)
    assert sorted(count for count in told[:-1] if count) == [1, 3]
    for agent in (agents[1], expected):
        agent.loss()
        agent._losses = [torch.zeros(())]
    check_alike(agents[1], expected, 3e-4)


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

    def never(_: Agent) -> Any:
        raise AssertionError("an agent trained by itself")

    monkeypatch.setattr(Agent, "gradient", never)
    found = run(small(vectorize=4), tmp_path / "at_once")
    assert len(found) == len(alone)
    for ours, theirs in zip(found, alone, strict=True):
        exact = ("round", "agent", "phase", "sent_bytes")
        assert [ours[k] for k in exact] == [theirs[k] for k in exact]
        assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.05)
    assert run(small(vectorize=4), tmp_path / "again") == found


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
    with pytest.raises(ConfigError, match=r"vectorize is .* random .*Set vectorize to 1"):
        run(own, tmp_path / "run")
    run(replace(own, vectorize=1), tmp_path / "alone")


def test_a_method_of_ones_own_that_steps_otherwise_takes_its_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the step of all methods is known to be the same for a stack."""
    from dimat.methods import METHODS, Local

    class Careful(Local):
        def step(self, me: Any) -> Any:
            yield from super().step(me)

    monkeypatch.setitem(METHODS, "local", lambda _: Careful())

    def never(*_: Any) -> None:
        raise AssertionError("trained at once")

    own = small(method="local", pretrain_epochs=0)
    monkeypatch.setattr(vectorized, "train_at_once", never)
    run(own, tmp_path / "run")
