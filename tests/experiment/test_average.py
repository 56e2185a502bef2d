"""Moving averages of weights: evaluated and saved, and of no influence on training and merges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError
from dimat.experiment.config.config import DataConfig, OptimizerConfig
from dimat.experiment.config.validate import validate
from dimat.experiment.running.vectorized import train_at_once
from dimat.experiment.setup import make_setup
from dimat.methods import RoundResult
from dimat.tools.estimate.memory import memory_of_run
from dimat.tools.estimate.model_cost import model_facts
from dimat.training.average import WeightAverage
from dimat.training.snapshot import Snapshot
from dimat.training.trainer import LocalTrainer

CONFIG = RunConfig(
    agents=2,
    rounds=2,
    pretrain_epochs=1,
    batch_size=10,
    width=0.25,
    threads=1,
    model="cnn",
    controls=(),
    local_steps=4,
    data=DataConfig(split="iid", train_images=100),
    optimizer=OptimizerConfig(lr=1e-2, ema=0.9),
)


def agent(config: RunConfig = CONFIG, index: int = 0, method: str = "wm") -> LocalTrainer:
    return make_setup(config).new_agent(index, pretraining=False, method=method)


def steps(own: LocalTrainer, count: int) -> list[dict[str, Tensor]]:
    found = []
    for _ in range(count):
        own.update(own.gradient())
        own.note_step()
        found.append(own.state())
    return found


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_the_average_is_the_sum_of_the_states_by_their_weights(decay: float) -> None:
    random = torch.Generator().manual_seed(0)
    states = [
        {"w": torch.randn(3, 2, generator=random, dtype=torch.float64), "n": torch.tensor(t)}
        for t in range(30)
    ]
    average = WeightAverage.begun(states[0])
    for state in states[1:]:
        average.add(state, decay)
    rates = [min(decay, (t - 1) / (t + 8)) for t in range(1, 31)]
    weights = [(1 - rates[t]) * torch.tensor(rates[t + 1 :]).double().prod() for t in range(30)]
    assert float(sum(weights)) == pytest.approx(1)
    expected = sum(w * own["w"] for w, own in zip(weights, states, strict=True))
    torch.testing.assert_close(average.state["w"], expected)
    assert average.state["n"] == 29  # a count is no average


def test_the_average_is_evaluated_and_saved_and_the_network_goes_on_from_its_own_weights() -> None:
    own = agent()
    *_, last = steps(own, 6)
    average = own.evaluated_state()
    assert own.average is not None
    assert any(not torch.equal(average[key], last[key]) for key in last)
    with own.averaged():
        assert all(torch.equal(own.state()[key], average[key]) for key in average)
    assert all(torch.equal(own.state()[key], last[key]) for key in last)
    with pytest.raises(ZeroDivisionError), own.averaged():
        _ = 1 / 0
    assert all(torch.equal(own.state()[key], last[key]) for key in last)


def test_a_merge_ends_the_average() -> None:
    own = agent()
    steps(own, 3)
    merged = {key: value + 1 for key, value in own.state().items()}
    own.take_over(own.context(1), RoundResult(merged, disagreement=0.5, calibrated=True))
    assert own.average is None
    assert all(torch.equal(own.evaluated_state()[key], merged[key]) for key in merged)
    (after,) = steps(own, 1)
    assert all(torch.equal(own.evaluated_state()[key], after[key]) for key in after)


def test_where_units_only_move_the_average_moves_with_them() -> None:
    own = agent(replace(CONFIG, model="mlp"))
    steps(own, 5)
    x = make_setup(CONFIG).test[0][:20]
    own.model.eval()
    with own.averaged(), torch.no_grad():
        expected = own.model(x)
    symmetry = own.merging.analysis().symmetry
    move = symmetry.random(torch.Generator().manual_seed(1))
    before = own.evaluated_state()
    own.take_over(own.context(1), RoundResult(symmetry.apply(move, own.state()), move))
    with own.averaged(), torch.no_grad():
        torch.testing.assert_close(own.model(x), expected)
    assert any(not torch.equal(own.evaluated_state()[key], before[key]) for key in before)
    assert own.average is not None
    assert own.average.steps == 5


def test_a_snapshot_has_the_average_and_without_one_is_as_ever() -> None:
    own = agent()
    assert "average" not in Snapshot.of(own).tree()
    steps(own, 3)
    tree = Snapshot.of(own).tree()
    again = agent()
    Snapshot.of_tree(tree).restore(again)
    for count in (0, 2):
        steps(own, count)
        steps(again, count)
        found, expected = again.evaluated_state(), own.evaluated_state()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_agents_of_a_stack_have_the_averages_that_they_would_have_alone(model: str) -> None:
    """One of them has taken two steps before, so that their rates differ."""
    config = replace(CONFIG, model=model, optimizer=OptimizerConfig("sgd", 0.01, ema=0.9))
    alone, stack = ([agent(config, i) for i in (0, 1)] for _ in range(2))
    for own in (alone, stack):
        steps(own[0], 2)
    for own in alone:
        steps(own, 4)
    train_at_once(stack, 4, config.optimizer)
    for ours, theirs in zip(stack, alone, strict=True):
        assert ours.average is not None
        assert theirs.average is not None
        assert ours.average.steps == theirs.average.steps
        found, expected = ours.evaluated_state(), theirs.evaluated_state()
        assert found.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-6)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def states(folder: Path) -> list[dict[str, Tensor]]:
    files = sorted((folder / "states").glob("*.safetensors"))
    return [safetensors.torch.load_file(file) for file in files]


@pytest.mark.parametrize("method", ["dimat", "sgp", "local"])
def test_training_and_merges_are_those_of_a_run_without_averages(
    method: str, tmp_path: Path
) -> None:
    """Merged networks are the same, to the bit; evaluated are averages of what was trained since.

    In round 1 of dimat agent 0 mixes with nobody, and its average goes on.
    """
    config = replace(CONFIG, method=method)
    plain = replace(config, optimizer=replace(config.optimizer, ema=None))
    runs = [
        dimat.run(own, False, out=str(tmp_path / str(k))) for k, own in enumerate((plain, config))
    ]
    without, with_ = (lines(own.folder) for own in runs)
    for one, two in zip(without, with_, strict=True):
        assert one["train_loss"] == two["train_loss"] or one["train_loss"] is None
        assert one["steps"] == two["steps"]
        mixed = one["phase"] == "merged" and one["disagreement"] is not None
        assert (one["test_loss"] == two["test_loss"]) == mixed
    both = zip(*(states(own.folder) for own in runs), strict=True)
    same = all(torch.equal(one[key], two[key]) for one, two in both for key in one)
    assert same == (method == "dimat")  # which reports what it merged


def test_averages_of_networks_that_exchange_in_steps_have_statistics_of_their_own() -> None:
    own = agent(method="cdsgd")
    steps(own, 4)
    before, raw = own.evaluated_state(), own.state()
    own.recalibrate(1)
    found, now = own.evaluated_state(), own.state()
    norm = next(key for key in now if key.endswith("running_mean"))
    assert not torch.equal(found[norm], before[norm])
    assert not torch.equal(found[norm], now[norm])
    weights = [key for key in now if key.endswith("weight")]
    assert all(torch.equal(now[key], raw[key]) for key in weights)
    assert all(torch.equal(found[key], before[key]) for key in weights)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_a_decay_is_between_0_and_1(decay: float) -> None:
    config = replace(CONFIG, optimizer=OptimizerConfig(ema=decay))
    with pytest.raises(ConfigError, match=r"'optimizer.ema' is .*: must be in \(0, 1\), or null"):
        validate(config)


def test_the_memory_of_an_average_is_foreseen() -> None:
    found = []
    for decay in (None, 0.9):
        own = replace(CONFIG, optimizer=replace(CONFIG.optimizer, ema=decay))
        setup = make_setup(own)
        facts = model_facts(setup)
        found.append(memory_of_run(setup, facts, ["wm"]).per_agent)
    assert found[1] - found[0] == facts.state_bytes
