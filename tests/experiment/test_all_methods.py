"""Every method in a whole run: alone it is centralized, unmatched it averages; bad graphs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.experiment.test_resume import content
from tests.experiment.test_run import lines, timeless
from tests.tiers import tiers

import dimat
from dimat import RunConfig
from dimat.data import SPLITS, Shard, generator
from dimat.errors import ConfigError, TopologyError, TrainingError
from dimat.exchange import Talk
from dimat.experiment.config.config import (
    ConsensusConfig,
    DataConfig,
    MatchingConfig,
    MergingConfig,
    OptimizerConfig,
    TopologyConfig,
)
from dimat.experiment.setup import make_setup
from dimat.methods import METHODS, Consensus, Method, StepContext
from dimat.methods.ordering import pairwise, tree
from dimat.symmetry import Analysis, Permutation

SMALL = RunConfig(
    agents=4,
    rounds=2,
    pretrain_epochs=1,
    model="cnn",
    width=0.25,
    threads=1,
    controls=(),
    data=DataConfig(train_images=400),
    optimizer=OptimizerConfig("msgd", 0.05),
    consensus=ConsensusConfig(quiet_steps=1),
)
ALONE = replace(SMALL, agents=1, rounds=3, topology=TopologyConfig("full"))


@pytest.fixture(scope="module")
def centralized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunConfig], Path]:
    """A run of a config, once."""

    @cache
    def ran(config: RunConfig) -> Path:
        out = tmp_path_factory.mktemp("centralized") / "run"
        return dimat.run(replace(config, out=str(out))).folder

    return ran


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in ("diloco", "centralized")]
)
@pytest.mark.parametrize("turn", tiers(["combine", "adapt"], slow=["adapt"]))
def test_with_one_agent_every_method_but_diloco_is_centralized(
    tmp_path: Path, centralized: Callable[[RunConfig], Path], name: str, turn: str
) -> None:
    own = replace(ALONE, method=name, consensus=ConsensusConfig(order=turn, quiet_steps=1))  # type: ignore[arg-type]
    if turn == "adapt" and METHODS[name].exchanges != "steps":
        own = replace(own, data=replace(own.data, split="iid"))
    ours = dimat.run(replace(own, out=str(tmp_path / "ours"))).folder
    theirs = centralized(replace(own, method="centralized"))
    assert timeless(ours) == timeless(theirs)
    state = "states/agent-000.safetensors"
    assert content(ours)[state] == content(theirs)[state]


def test_centralized_is_the_run_of_one_agent_with_all_images(tmp_path: Path) -> None:
    data = replace(SMALL.data, validation=0.0)  # one agent would hold out others
    many, one = replace(SMALL, method="centralized", data=data), replace(ALONE, rounds=2, data=data)
    pooled = dimat.run(replace(many, out=str(tmp_path / "a"))).folder
    alone = dimat.run(replace(one, method="local", out=str(tmp_path / "b"))).folder
    assert timeless(pooled) == timeless(alone)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "local"])
def test_every_method_gives_the_same_run_twice_and_counts_what_it_sends(
    tmp_path: Path, name: str
) -> None:
    config = replace(SMALL, method=name)
    first = dimat.run(replace(config, out=str(tmp_path / "a")))
    assert timeless(first.folder) == timeless(
        dimat.run(replace(config, out=str(tmp_path / "b"))).folder
    )
    last = [x for x in lines(first.folder) if x["round"] == 2 and x["phase"] == "trained"]
    assert len(last) == (1 if name == "centralized" else 4)
    sent = sum(x["sent_bytes"] for x in last)
    assert sent == sum(x["received_bytes"] for x in last) == first.main.summary["sent_bytes"]
    assert (sent > 0) == (name != "centralized")
    pretrained = 1 if name == "centralized" else 4
    assert all(x["epochs"] == pytest.approx(3, abs=0.35) for x in last)
    assert all(x["busy_s"] > 0 for x in last)
    assert len([x for x in lines(first.folder) if x["round"] == 0]) == pretrained


def test_all_methods_set_out_from_the_same_agents(tmp_path: Path) -> None:
    names = tuple(name for name in METHODS if name not in ("local", "centralized"))
    result = dimat.run(
        replace(SMALL, rounds=0, method="local", controls=names, out=str(tmp_path / "a"))
    )
    first = timeless(result.folder)
    for name in names:
        assert timeless(result.folder / "controls" / name) == first


@pytest.mark.parametrize("gauge", ["tree", "pairwise"])
def test_with_identity_matching_and_without_batchnorm_dimat_is_plain_averaging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gauge: str
) -> None:
    def identity(analysis: Analysis, *states: object, turned: bool = False) -> Permutation:
        return analysis.symmetry.identity()

    for rule in (pairwise, tree):
        monkeypatch.setattr(rule, "match_to", identity)
    matching = MatchingConfig(gauge=gauge, sweeps=0)  # type: ignore[arg-type]
    config = replace(
        SMALL, model="mlp", rounds=3, matching=matching, merging=MergingConfig("average")
    )
    own = dimat.run(replace(config, method="dimat", controls=("wa",), out=str(tmp_path / "a")))
    keys = ("round", "agent", "phase", "test_accuracy", "test_loss", "train_loss", "disagreement")
    ours = [[x[k] for k in keys] for x in lines(own.folder)]
    assert ours == [[x[k] for k in keys] for x in lines(own.folder / "controls" / "wa")]


def test_methods_that_step_together_take_equally_many_steps_where_shards_differ(
    tmp_path: Path,
) -> None:
    config = replace(SMALL, data=DataConfig(split="dirichlet", alpha=1.0), rounds=1, batch_size=16)
    folder = dimat.run(
        replace(config, method="cdsgd", controls=("wa",), out=str(tmp_path / "a"))
    ).folder

    def steps(where: Path) -> list[int]:
        before = {x["agent"]: x["steps"] for x in lines(where) if x["round"] == 0}
        after = [x for x in lines(where) if x["round"] == 1 and x["phase"] == "trained"]
        return [x["steps"] - before[x["agent"]] for x in after]

    together, apart = steps(folder), steps(folder / "controls" / "wa")
    assert len(set(together)) == 1
    assert len(set(apart)) > 1
    assert together[0] == pytest.approx(sum(apart) / 4, abs=1)


@pytest.mark.parametrize(
    ("method", "topology", "message"),
    [
        (
            "cdsgd",
            "star-of-one-way",
            "method 'cdsgd' needs a doubly stochastic mixing matrix.*'sgp'",
        ),
        ("gradient-tracking", "star-of-one-way", "needs a doubly stochastic.*'sgp'"),
        ("wa", "star-of-one-way", "needs an average, rows.*row . sums to"),
        ("final-merge", "directed-ring", "method 'final-merge' needs edges that carry both ways"),
        ("cga", "directed-ring", "needs edges that carry both ways"),
        ("swarm", "one-peer-exponential", "needs edges that carry both ways"),
        ("noloco", "one-peer-exponential", "needs edges that carry both ways"),
        ("qg-momentum", "star-of-one-way", "needs a doubly stochastic.*'sgp'"),
        ("k-gt", "star-of-one-way", "needs a doubly stochastic.*'sgp'"),
    ],
)
def test_a_graph_that_a_method_cannot_use_is_refused_before_anything_is_written(
    tmp_path: Path, method: str, topology: str, message: str
) -> None:
    own = TopologyConfig(topology)
    if topology == "star-of-one-way":
        (tmp_path / "edges").write_text("0 1\n1 2\n2 3\n3 0\n0 2\n")
        own = TopologyConfig("edges", str(tmp_path / "edges"), directed=True)
    out = tmp_path / "run"
    with pytest.raises(TopologyError, match=message):
        dimat.run(replace(SMALL, method=method, topology=own, out=str(out)))
    assert not out.exists()


@pytest.mark.parametrize("method", ["sgp", "local", "fedavg", "diloco", "centralized"])
def test_any_strongly_connected_graph_will_do_for_some(tmp_path: Path, method: str) -> None:
    (tmp_path / "edges").write_text("0 1\n1 2\n2 3\n3 0\n0 2\n")
    own = TopologyConfig("edges", str(tmp_path / "edges"), directed=True)
    config = replace(SMALL, method=method, topology=own, rounds=1, out=str(tmp_path / "run"))
    result = dimat.run(config).main
    agents = 1 if method == "centralized" else 4
    assert (len(result.agents), result.summary["rounds"]) == (agents, 1)


@pytest.mark.parametrize("method", ["wa", "wm", "cdsgd", "dimat"])
def test_doubly_stochastic_one_way_graphs_that_change_will_do_for_averages(
    tmp_path: Path, method: str
) -> None:
    own = replace(SMALL, method=method, topology=TopologyConfig("one-peer-exponential"))
    own = replace(own, matching=MatchingConfig(gauge="pairwise"), out=str(tmp_path / "run"))
    folder = dimat.run(own).folder
    (state,) = {x["sent_bytes"] for x in lines(folder) if x["round"] == 1}
    assert state > 0  # every agent tells one other, in every round or step
    assert json.loads((folder / "topology.json").read_text())["directed"]


def test_unequal_weights_are_refused_where_the_plain_mean_is_meant(tmp_path: Path) -> None:
    config = replace(SMALL, data=DataConfig(split="dirichlet", alpha=1.0), batch_size=16)
    config = replace(config, topology=TopologyConfig("star", mixing="shard-size"))
    dimat.run(replace(config, method="wa", out=str(tmp_path / "a")))
    with pytest.raises(TopologyError, match="needs a doubly stochastic mixing matrix"):
        dimat.run(replace(config, method="cdsgd", out=str(tmp_path / "b")))


def test_momentum_consensus_refuses_an_adaptive_optimizer_and_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"'cdmsgd' is momentum SGD.*must be 'msgd'.*'cdsgd'"):
        dimat.run(replace(SMALL, method="cdmsgd", optimizer=OptimizerConfig("adam")))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_quasi_global_momentum_refuses_an_optimizer_without_one_to_take_the_place_of(
    name: str,
) -> None:
    with pytest.raises(ConfigError, match=rf"'qg-momentum' is mom.*'{name}': must be 'msgd'; 'cds"):
        dimat.run(replace(SMALL, controls=("qg-momentum",), optimizer=OptimizerConfig(name)))


def test_centralized_sees_as_many_images_as_all_agents(tmp_path: Path) -> None:
    config = replace(SMALL, method="wa", controls=("centralized",), local_steps=3, batch_size=16)
    folder = dimat.run(replace(config, out=str(tmp_path / "a"))).folder

    def steps(where: Path) -> int:
        last = [x for x in lines(where) if x["round"] == 2 and x["phase"] == "trained"]
        first = [x for x in lines(where) if x["round"] == 0]
        return sum(x["steps"] for x in last) - sum(x["steps"] for x in first)

    assert steps(folder) == steps(folder / "controls" / "centralized") == 2 * 4 * 3


@pytest.mark.parametrize("split", sorted(SPLITS))
@pytest.mark.parametrize("pretraining", [True, False])
def test_centralized_trains_on_what_agents_train_on_and_on_nothing_that_one_holds_out(
    split: str, pretraining: bool
) -> None:
    setup = make_setup(replace(SMALL, data=DataConfig(split=split, validation=0.2, alpha=2.0)))
    shards = [setup.shard(i, pretraining=pretraining) for i in range(SMALL.agents)]
    alone = setup.pooled().shard(0, pretraining=pretraining)

    def trained(shard: Shard) -> list[bytes]:
        return [x.numpy().tobytes() for x, _ in shard.epoch(1, generator(0))]

    def validated(shard: Shard) -> list[bytes]:
        return [x.numpy().tobytes() for x in shard.validation()[0]]

    for images in (trained, validated):
        everybody = [own for shard in shards for own in images(shard)]
        assert everybody
        assert Counter(images(alone)) == Counter(everybody)
    counted = setup.pooled().pretrain_steps(0) if pretraining else setup.pooled().round_steps(0)
    assert counted == alone.num_batches(SMALL.batch_size)  # one epoch


@pytest.mark.parametrize("method", ["wm", "dimat", "wa"])
def test_agents_that_meet_nobody_in_a_round_are_no_trouble(tmp_path: Path, method: str) -> None:
    own = TopologyConfig("ring", dropout=0.6)
    config = replace(SMALL, method=method, topology=own, rounds=4, model="mlp")
    config = replace(config, matching=MatchingConfig(gauge="pairwise"), out=str(tmp_path / "run"))
    folder = dimat.run(config).folder
    met = {x["round"] for x in lines(folder) if x["phase"] == "merged"}
    assert met
    seen = [json.loads(x) for x in (folder / "diagnostics.jsonl").read_text().splitlines()]
    assert {x["round"] for x in seen} == met
    if method == "wa":
        assert all(x["consensus_after"] > 0 for x in seen)
    else:
        assert any(x["consensus_after"] is None for x in seen)  # not all can be compared


def test_agents_that_step_together_have_one_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(split="dirichlet", alpha=1.0)
    optimizer = OptimizerConfig("msgd", 0.05, schedule="cosine")
    config = replace(SMALL, data=data, batch_size=16, optimizer=optimizer, pretrain_epochs=2)
    rates: dict[int, list[float]] = {}
    step = Consensus.step

    def spied(self: Consensus, me: StepContext) -> Talk[None]:
        rates.setdefault(me.index, []).append(me.lr)
        return step(self, me)

    monkeypatch.setattr(Consensus, "step", spied)
    dimat.run(replace(config, method="cdsgd", out=str(tmp_path / "run")))
    assert len(rates) == 4
    assert all(own == rates[0] for own in rates.values())
    assert rates[0] == sorted(rates[0], reverse=True)
    assert 0 < rates[0][-1] < 0.1 * rates[0][0]


@pytest.mark.parametrize("method", ["cga", "wm", "dimat", "cdsgd"])
def test_training_that_diverges_is_said_with_method_and_round(tmp_path: Path, method: str) -> None:
    config = replace(SMALL, method=method, optimizer=OptimizerConfig("sgd", 1e30), model="mlp")
    with pytest.raises(TrainingError, match=rf"^{method}, round \d, "):
        dimat.run(replace(config, pretrain_epochs=0, rounds=4, out=str(tmp_path / "run")))


@pytest.mark.parametrize(("name", "part"), [("cdsgd", "step"), ("wa", "merge")])
def test_graphs_that_change_are_followed_by_step_or_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str
) -> None:
    kind = METHODS[name]
    seen: list[list[int]] = []
    original = getattr(kind, part)

    def spied(self: Method, me: Any) -> Talk[Any]:
        if getattr(me, "index", getattr(me, "agent", None)) == 0:
            seen.append(me.topology.neighbors(0))
        return original(self, me)  # type: ignore[no-any-return]

    monkeypatch.setattr(kind, part, spied)
    own = TopologyConfig("alternating-matchings")
    config = replace(SMALL, method=name, topology=own, rounds=4, local_steps=2)
    dimat.run(replace(config, out=str(tmp_path / "run")))
    assert len(seen) == (8 if part == "step" else 4)
    assert seen[0] != seen[1]
    assert seen == seen[:2] * (len(seen) // 2)
