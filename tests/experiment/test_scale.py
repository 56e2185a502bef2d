"""What an agent costs does not grow with how many there are: counted, not timed."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experiment.test_run import SMALL

import dimat
from dimat import state
from dimat.data import Shard
from dimat.exchange import collectives
from dimat.exchange.collectives import Collectives
from dimat.exchange.world import SINGLE_PROCESS
from dimat.experiment.config.config import DataConfig, OptimizerConfig, TopologyConfig
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder, _apart
from dimat.experiment.record.results import MethodResult
from dimat.experiment.running import runner as job
from dimat.experiment.running.pretrain import Pretrained
from dimat.experiment.running.rounds import Rounds
from dimat.experiment.setup import make_setup
from dimat.topology import Dropout, Topology

QUICK = replace(SMALL, pretrain_epochs=1, width=0.1, controls=())
UNEQUAL = replace(
    QUICK,
    batch_size=4,
    data=DataConfig(split="dirichlet", alpha=1.0),
    optimizer=OptimizerConfig(schedule="cosine"),
)


@pytest.mark.parametrize(("agents", "method"), [(7, "wa"), (3, "cdsgd")])
def test_every_agent_has_two_shards_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, agents: int
) -> None:
    made, original = [], Shard.__init__

    def counted(self: Shard, *args: Any, **settings: Any) -> None:
        made.append(self)
        original(self, *args, **settings)

    monkeypatch.setattr(Shard, "__init__", counted)
    config = replace(UNEQUAL, agents=agents, method=method, vectorize=1)  # no trial of stacks
    dimat.run(replace(config, out=str(tmp_path / "run")))
    assert len(made) == 2 * agents  # while pre-training, and in the rounds


def test_batches_that_are_counted_are_those_that_shards_have() -> None:
    setup = make_setup(replace(UNEQUAL, agents=7, data=replace(UNEQUAL.data, validation=0.3)))
    found = [setup.shard(i, pretraining=False).num_batches(4) for i in range(7)]
    assert len(set(found)) > 1
    assert [setup.round_steps(i) for i in range(7)] == found
    assert {setup.round_steps(i, together=True) for i in range(7)} == {round(sum(found) / 7)}


def test_what_all_agents_are_told_is_encoded_and_decoded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, encode, decode = [], collectives.as_message, collectives.tree_of
    monkeypatch.setattr(collectives, "as_message", lambda tree: calls.append("in") or encode(tree))
    monkeypatch.setattr(collectives, "tree_of", lambda own: calls.append("out") or decode(own))
    said = {"results": list(range(20))}
    assert Collectives(SINGLE_PROCESS.transport(20), 20).tell(said) == said
    assert calls == ["in", "out"]


def test_a_graph_that_varies_by_the_round_is_not_drawn_for_training_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, original = [], Dropout.at

    def at(self: Dropout, time: int) -> Topology:
        asked.append(time)
        return original(self, time)

    monkeypatch.setattr(Dropout, "at", at)
    config = replace(QUICK, method="wa", rounds=1, local_steps=job._TIMES + 6)
    dimat.run(replace(config, topology=TopologyConfig(dropout=0.2), out=str(tmp_path / "run")))
    assert max(asked) < job._TIMES  # what is looked at before training; its steps go further


def test_agents_hold_no_gradients_between_rounds_and_those_who_set_out_are_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Rounds, MutableMapping[int, Pretrained]]] = []
    original = Rounds.run

    def run(self: Rounds, pretrained: MutableMapping[int, Pretrained]) -> MethodResult | None:
        assert len(pretrained) == 4
        seen.append((self, pretrained))
        return original(self, pretrained)

    monkeypatch.setattr(Rounds, "run", run)
    dimat.run(replace(QUICK, out=str(tmp_path / "run")))
    [(rounds, pretrained)] = seen
    assert not pretrained
    assert all(p.grad is None for agent in rounds.agents for p in agent.model.parameters())


def test_a_checkpoint_copies_only_what_shares_memory_and_changes_nothing(tmp_path: Path) -> None:
    whole = torch.arange(24.0)
    image = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    tensors = {"all": whole, "half": whole[:12], "twice": whole, "image": image}
    store = CheckpointFolder(tmp_path)
    store.write(Checkpoint(1, {"x": 1}, tensors))
    found = store.read(1).tensors
    assert all(torch.equal(found[name], own) for name, own in tensors.items())
    places = {name: own.untyped_storage().data_ptr() for name, own in _apart(tensors).items()}
    assert len(set(places.values())) == 4
    assert places["all"] == whole.untyped_storage().data_ptr()


@pytest.mark.parametrize("shape", [(5, 7, 3, 3), (11,), (1,), ()])
def test_a_mean_in_parts_is_the_mean_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    states = [{"w": torch.randn(shape)} for _ in range(9)]
    whole = state.consensus_distance(states, ["w"])
    assert whole > 0
    for most in (1, 20, 90):
        monkeypatch.setattr(state, "_MOST_AT_ONCE", most)
        assert state.consensus_distance(states, ["w"]) == whole
