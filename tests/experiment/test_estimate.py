"""What a run will cost is what it then costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tests.experiment.test_run import lines
from tests.tiers import tiers
from torch.utils.flop_counter import FlopCounterMode

import dimat
from dimat import RunConfig
from dimat.errors import ConfigError, TrainingError
from dimat.exchange import Talk
from dimat.experiment.config.config import (
    ConsensusConfig,
    DataConfig,
    ExchangeConfig,
    MatchingConfig,
    MergingConfig,
    MixingConfig,
    OptimizerConfig,
    RecalibrationConfig,
    TopologyConfig,
)
from dimat.experiment.config.parse import load_config
from dimat.experiment.setup import Setup, make_setup
from dimat.merging.optimizer import flat_memory, memory_of
from dimat.methods import METHODS, Averaging, Method, RoundContext, RoundResult, StepContext
from dimat.methods.messages import combined, swap
from dimat.state import num_bytes, state_of
from dimat.tools.estimate import calibrate
from dimat.tools.estimate import forecast as forecasting
from dimat.tools.estimate.assume import assumed
from dimat.tools.estimate.dry_run import Stage, rehearse
from dimat.tools.estimate.forecast import Forecast, forecast
from dimat.tools.estimate.model_cost import memory_entries, model_facts
from dimat.training.snapshot import Snapshot
from dimat.training.trainer import LocalTrainer

CONFIGS = Path(__file__).parents[2] / "configs"
IRREGULAR = TopologyConfig("erdos-renyi", probability=0.5, seed=3)
SMALL = RunConfig(
    agents=6,
    rounds=4,
    pretrain_epochs=1,
    batch_size=16,
    width=0.1,
    threads=1,
    model="mlp",
    controls=(),
    topology=IRREGULAR,
    data=DataConfig(train_images=300, split="iid"),
    optimizer=OptimizerConfig("msgd", 0.02),
    consensus=ConsensusConfig(quiet_steps=1),
    eval_every=4,
)
MIXED = OptimizerConfig("adam", on_merge="mix")
VARYING = TopologyConfig("ring", dropout=0.3)
ADAPTED = {"model": "tests.adapters.nets:factory", "exchange": ExchangeConfig(what="trainable")}
TREE, PAIRWISE = MatchingConfig(gauge="tree"), MatchingConfig(gauge="pairwise")
CASES: dict[str, RunConfig] = {
    **{name: replace(SMALL, method=name) for name in METHODS},
    "one agent": replace(SMALL, agents=1, topology=TopologyConfig("ring"), method="wa"),
    "tree": replace(SMALL, matching=replace(TREE, every=3)),
    "tree, edges lost": replace(SMALL, matching=TREE, topology=VARYING),
    "pooled tree": replace(SMALL, matching=MatchingConfig(statistics="pooled")),
    "pooled pairwise": replace(SMALL, matching=replace(PAIRWISE, statistics="pooled")),
    "edges lost": replace(SMALL, topology=VARYING),
    "bfloat16": replace(SMALL, exchange=ExchangeConfig("bfloat16"), method="sgp"),
    "trained alone": replace(SMALL, **ADAPTED, method="wa"),
    "trained alone, matched": replace(SMALL, **ADAPTED),
    "memory mixed": replace(SMALL, optimizer=MIXED),
    "memory mixed, none at first": replace(SMALL, optimizer=MIXED, pretrain_epochs=0, method="wa"),
    "gram": replace(SMALL, merging=MergingConfig("gram"), model="cnn", width=0.3),
    "gram, few": replace(SMALL, merging=MergingConfig("gram", 0.7)),
    "mixed thrice": replace(SMALL, mixing=MixingConfig(3)),
    "mixed thrice, accelerated": replace(
        SMALL, method="wa", mixing=MixingConfig(3, chebyshev=True)
    ),
    "directed": replace(SMALL, topology=TopologyConfig("directed-exponential"), method="sgp"),
    "one peer": replace(
        SMALL, agents=8, topology=TopologyConfig("one-peer-exponential"), method="cdsgd"
    ),
}


SOLITARY = ("local", "centralized")


class Otherwise(Averaging):
    """It says its state twice."""

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        yield from swap(me.topology, me.agent, dict(me.state))
        return (yield from super().merge(me))


class Seldom(Method):
    """Some of its weights and a count travel, in every third round."""

    exchanges = "rounds"

    @property
    def period(self) -> int:
        return 3

    def merge(self, me: RoundContext) -> Talk[RoundResult]:
        if me.round % 3 == 2:
            few = {f"few/{key}": value.flatten()[:9] for key, value in me.state.items()}
            count = torch.tensor([me.round])
            yield from swap(me.topology, me.agent, {**few, "count": count})
        return RoundResult(me.state)


class Twice(Method):
    """A state in every other step, without a word of how often."""

    exchanges = "steps"

    def step(self, me: StepContext) -> Talk[None]:
        time = me.steps
        yield from super().step(me)
        if time % 2:
            me.load((yield from combined(me, me.state())))


class Careful(Method):
    """It says nothing to anybody, and yet takes steps of its own."""

    def step(self, me: StepContext) -> Talk[None]:
        yield from super().step(me)


def sent(config: RunConfig, out: Path) -> list[int]:
    """The bytes that each agent had sent when a run ended."""
    result = dimat.run(replace(config, out=str(out)))
    last = [x for x in lines(result.folder) if x["round"] == config.rounds]
    found = {x["agent"]: x["sent_bytes"] for x in last if x["phase"] == "trained"}
    return [found[i] for i in sorted(found)]


@pytest.mark.parametrize("width", tiers([0.1, 0.5], slow=[0.1]))
@pytest.mark.parametrize("made", [Otherwise, Seldom, Twice, Careful])
def test_a_method_of_ones_own_is_foreseen_though_it_says_nothing_of_its_cost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: type[Method], width: float
) -> None:
    monkeypatch.setitem(METHODS, "own", made)
    config = replace(SMALL, method="own", rounds=8, width=width)
    assert foreseen(config).costs["own"].sent_bytes == pytest.approx(sent(config, tmp_path / "run"))


def test_a_method_of_ones_own_costs_what_it_does_as_a_control_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mine(Averaging):
        """As ``wa``."""

    monkeypatch.setitem(METHODS, "mine", Mine)
    found = foreseen(replace(SMALL, method="wa", controls=("mine",))).costs
    assert found["mine"] == found["wa"]


def test_a_method_that_fails_in_its_dry_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Averaging):
        def merge(self, me: RoundContext) -> Talk[RoundResult]:
            raise ValueError("no")

    monkeypatch.setitem(METHODS, "broken", Broken)
    with pytest.raises(TrainingError, match="broken, round 1, in a dry run: .*ValueError: no"):
        foreseen(replace(SMALL, method="broken"))


FAST = ("wa", "swarm", "gram", "edges lost", "memory mixed")  # and those below, of another width


@pytest.mark.parametrize("name", tiers(CASES, slow=[name for name in CASES if name not in FAST]))
def test_every_agent_sends_the_bytes_that_were_foreseen(tmp_path: Path, name: str) -> None:
    config = CASES[name]
    expected = foreseen(config).costs[config.method].sent_bytes
    found = sent(config, tmp_path / "run")
    assert found == pytest.approx(expected[: len(found)], rel=1e-12)


@pytest.mark.parametrize("name", ["dimat", "fedavg", "sgp", "tree", "pooled tree", "bfloat16"])
def test_bytes_are_those_of_the_width_of_the_run(tmp_path: Path, name: str) -> None:
    config = replace(CASES[name], width=0.4, agents=4)
    assert foreseen(config).costs[config.method].sent_bytes == pytest.approx(
        sent(config, tmp_path / "run"), rel=1e-12
    )


LONG = replace(SMALL, rounds=14, pretrain_epochs=0, local_steps=1, eval_every=14)
AGAIN: dict[str, RunConfig] = {
    **{name: replace(LONG, method=name) for name in ("dimat", "final-merge", "ldsgd")},
    "tree, every": replace(LONG, matching=replace(TREE, every=3)),
    "mixed at last": replace(LONG, method="wa", mixing=MixingConfig(final_steps=5)),
    "spread": replace(LONG, matching=MatchingConfig(gauge="spread")),
    "memory mixed": replace(LONG, optimizer=MIXED, method="wa"),
    "one peer": replace(
        LONG, agents=8, topology=TopologyConfig("one-peer-exponential"), method="wa"
    ),
}


@pytest.mark.parametrize("name", tiers(AGAIN, slow=["memory mixed", "spread"]))
def test_what_repeats_itself_is_played_a_few_times_and_foreseen_to_the_end(
    tmp_path: Path, name: str
) -> None:
    config = AGAIN[name]
    setup = make_setup(config)
    played = rehearse(Stage(setup), setup, config.method)
    assert len(played.seen) < played.total
    expected = played.sent_bytes(config.agents)
    assert sent(config, tmp_path / "run") == pytest.approx(expected, rel=1e-12)


def test_of_a_graph_that_varies_at_random_a_sample_of_steps_stands_for_all() -> None:
    topology = replace(VARYING, dropout=0.5, seed=1)
    config = replace(SMALL, topology=topology, method="cdsgd", rounds=400, local_steps=3)
    setup = make_setup(config)
    facts = model_facts(setup)
    steps = [setup.topology.at(t) for t in range(1200)]
    expected = facts.state_bytes * sum(len(own.listeners(2)) for own in steps)
    assert foreseen(config).costs["cdsgd"].sent_bytes[2] == pytest.approx(expected, rel=0.1)


def foreseen(config: RunConfig) -> Forecast:
    return forecast(make_setup(config), 0.0, calibrate=False)


CNN = replace(SMALL, model="cnn", rounds=3, eval_every=2, agents=4, topology=TopologyConfig("star"))
CNN = replace(CNN, recalibration=RecalibrationConfig(images=20))


def arithmetic(config: RunConfig, out: Path) -> float:
    """What a run did once its model had been looked at."""
    setup = make_setup(config)
    with pytest.MonkeyPatch.context() as patch:
        if METHODS[config.method].matches:
            # Not counted by a difference of two looks: what PyTorch counts of an export is less
            # the second time, whenever its own cache still knows the first.
            patch.setattr(Setup, "analysis", setup.analysis)
        with FlopCounterMode(display=False) as before:
            make_setup(config)
        with FlopCounterMode(display=False) as counter:
            dimat.run(replace(config, out=str(out)))
    return counter.get_total_flops() - before.get_total_flops()


@pytest.mark.parametrize(
    "name",
    tiers(["wa", "fedavg", "centralized", "local", "sgp"], slow=["fedavg", "local", "sgp"]),
)
def test_a_run_does_the_arithmetic_that_was_foreseen(tmp_path: Path, name: str) -> None:
    config = replace(CNN, method=name, data=replace(CNN.data, validation=0.2))
    assert arithmetic(config, tmp_path / "run") == pytest.approx(foreseen(config).flops, abs=1)


@pytest.mark.slow
def test_gradients_at_other_agents_are_foreseen_but_not_their_products(tmp_path: Path) -> None:
    config = replace(CNN, method="cga")
    done, expected = arithmetic(config, tmp_path / "run"), foreseen(config).flops
    assert expected < done < 1.02 * expected


@pytest.mark.parametrize(
    "matching",
    [pytest.param(own, marks=pytest.mark.slow) for own in (TREE, PAIRWISE)] + [MatchingConfig()],
    ids=lambda own: own.gauge,
)
def test_the_forward_passes_of_matching_are_foreseen(
    tmp_path: Path, matching: MatchingConfig
) -> None:
    config = replace(CNN, width=0.5, matching=replace(matching, images=30))
    config = replace(config, merging=MergingConfig("average"))
    own = foreseen(config)
    matched = own.costs["dimat"].flops["matching"]
    done = arithmetic(config, tmp_path / "run") - (own.flops - matched)
    assert 0 < 0.9 * matched < done < 1.6 * matched  # the rest is products of what was seen


def test_units_are_compared_once_however_often_states_are_mixed() -> None:
    config = replace(SMALL, matching=TREE)
    often = foreseen(replace(config, mixing=MixingConfig(3))).costs["dimat"]
    once = foreseen(config).costs["dimat"]
    assert often.flops["matching"] == once.flops["matching"] > 0
    assert sum(often.sent_bytes) > 2 * sum(once.sent_bytes)


def test_the_arithmetic_of_a_perceptron_is_what_one_works_out_by_hand() -> None:
    facts = model_facts(make_setup(replace(SMALL, width=0.25)))
    hidden = 32
    layers = [64 * hidden, hidden * hidden, hidden * 10]
    assert facts.parameters == sum(layers) + 2 * hidden + 10
    assert facts.forward_flops == 2 * sum(layers)
    # backward: the gradients of all weights, and of all inputs but the first layer's
    assert facts.training_flops == 2 * (2 * sum(layers) + sum(layers[1:]))
    # kept: three inputs of layers, and what the loss needs of the logits
    assert 4 * (64 + 2 * hidden + 10) <= facts.activation_bytes <= 4 * (64 + 4 * hidden + 20) + 100


@pytest.mark.slow
def test_the_headline_has_the_arithmetic_that_it_is_said_to_have() -> None:
    config = load_config(CONFIGS / "paper" / "cifar100-resnet20x8-ring5-iid.yaml")
    found = forecast(make_setup(config, dataset=assumed("cifar100")), 0.0, calibrate=False)
    training = sum(own.flops["training"] for own in found.costs.values())
    assert training == pytest.approx(2.45e17, rel=0.01)
    sent = found.costs["dimat"].sent_bytes
    assert sum(sent) == pytest.approx(5 * 2 * 100 * 4 * found.facts.parameters, rel=1e-3)


@pytest.mark.parametrize("name", ["sgd", "msgd", "adam", "adamw"])
def test_an_agent_takes_the_memory_that_was_foreseen(name: str) -> None:
    config = replace(CNN, optimizer=OptimizerConfig(name, 0.01))
    setup = make_setup(config)
    agent, facts = setup.new_agent(0, pretraining=True), model_facts(setup)
    gradient = agent.gradient()
    agent.update(gradient)
    assert facts.state_bytes == num_bytes(state_of(agent.model))
    assert facts.gradient_bytes == num_bytes(gradient)
    remembered = flat_memory(memory_of(agent.optimizer, agent.model))
    assert num_bytes(memory_entries(name, facts.gradient)) == num_bytes(remembered)
    assert len(Snapshot.of(agent).state) == len(facts.state)


def test_without_calibration_nothing_is_trained_and_no_time_foreseen() -> None:
    with mock.patch.object(LocalTrainer, "update", side_effect=AssertionError("it trains")):
        found = foreseen(SMALL)
    assert found.wall_s is None
    assert all(not own.wall_s for own in found.costs.values())


def test_agents_that_train_at_once_are_timed_and_counted_in_a_stack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the six never more than four; and of each all that a step changes, beside itself."""
    monkeypatch.setattr(forecasting, "_CALIBRATION_S", 0.5)
    sizes: list[int] = []
    original = calibrate.train_at_once

    def watched(agents: Sequence[LocalTrainer], *rest: Any, **how: Any) -> None:
        sizes.append(len(agents))
        original(agents, *rest, **how)

    monkeypatch.setattr(calibrate, "train_at_once", watched)
    found = forecast(make_setup(replace(SMALL, vectorize=4)), 0.0)
    assert set(sizes) == {4}
    facts = found.facts
    own = facts.state_bytes + num_bytes(memory_entries("msgd", facts.gradient))
    assert found.memory.shared["agents at once"] == 4 * own
    alone = foreseen(replace(SMALL, vectorize=1)).memory.shared
    assert found.memory.shared["gradients"] == 4 * alone["gradients"]
    assert found.memory.shared["a training step"] == 4 * alone["a training step"]


def test_a_step_is_that_of_a_stack_only_where_agents_are_stacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not where they talk while they train, and not of one agent that has all images."""
    speed = forecasting.Speed(*[1.0] * 8)
    monkeypatch.setattr(forecasting, "speed_of", lambda *_: replace(speed, stacked=0.25))
    monkeypatch.setattr(
        forecasting, "method_seconds", lambda *_: forecasting.MethodSeconds(*[1.0] * 6)
    )
    controls = ("cdsgd", "local", "centralized")
    config = replace(SMALL, controls=controls, local_steps=3, vectorize=4)
    ours, theirs = (
        forecast(make_setup(own), 0.0).costs for own in (config, replace(config, vectorize=1))
    )
    ratios = {
        name: own.wall_s["training"] / theirs[name].wall_s["training"] for name, own in ours.items()
    }
    assert ratios == {
        "pre-training": 0.25,
        "pre-training, centralized": 1,
        "dimat": 0.25,
        "cdsgd": 1,
        "local": 0.25,
        "centralized": 1,
    }


def test_every_method_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "_CALIBRATION_S", 0.2)
    config = replace(SMALL, controls=tuple(METHODS), optimizer=OptimizerConfig("msgd", 1e-3))
    torch.manual_seed(7)
    found = forecast(make_setup(config), 1.5)
    assert torch.initial_seed() == 7
    assert found.wall_s is not None
    assert found.wall_s > 1.5
    for name in METHODS:
        own = found.costs[name].wall_s
        assert own["training"] > 0
        assert min(own.values()) >= 0
        assert (
            (own["exchange and merging"] > 0)
            or name in SOLITARY
            or METHODS[name].exchanges == "steps"
        )
    assert found.costs["pre-training, centralized"].wall_s["training"] > 0


def test_time_is_counts_times_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second for everything, the seconds of a part are how often it happens."""
    monkeypatch.setattr(forecasting, "speed_of", lambda *_: forecasting.Speed(*[1.0] * 8))
    monkeypatch.setattr(
        forecasting, "method_seconds", lambda *_: forecasting.MethodSeconds(*[1.0] * 6)
    )
    config = replace(SMALL, topology=TopologyConfig("ring"), rounds=10, method="wa", local_steps=3)
    own = forecast(make_setup(config), 0.0).costs["wa"].wall_s
    assert own == {
        "training": 6 * 10 * 3,
        "exchange and merging": 6 * 10 * 3 * 2 + (60 + 120) + 60,  # no step is longer, really
        "matching": 0,
        "recalibration": 60,
        "evaluation": 6 * (1 + 2 * 3),  # rounds 4, 8 and 10, merged and trained
        "diagnostics": 6 * 3,
        "checkpoints": 2 * 6 * 9,
    }


@pytest.mark.parametrize("what", ["cifar", "1,2,3", "0,1,2,3,4,5", "5,5,8,8,1,10", "a,b,c,d,e,f"])
def test_what_cannot_be_assumed_is_refused(what: str) -> None:
    with pytest.raises(ConfigError, match="'assume' is '.*': must be "):
        assumed(what)


def test_assumed_images_have_the_numbers_that_were_given() -> None:
    own = assumed("50,20,8,6,3,7")
    assert (tuple(own.train_x.shape), tuple(own.test_x.shape)) == ((50, 8, 6, 3), (20, 8, 6, 3))
    assert own.num_classes == 7
