"""What agents tell the observer and hear from it: whatever it is, and from whomever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.experiment.test_run import SMALL

from dimat.errors import StructureError
from dimat.exchange.collectives import Collectives
from dimat.exchange.tree import as_message, copied, plain, tree_of
from dimat.exchange.world import SINGLE_PROCESS, block
from dimat.experiment.progress import Silent
from dimat.experiment.record.checkpoint import Checkpoint, CheckpointFolder
from dimat.experiment.running import pretrain
from dimat.experiment.running.pretrain import Pretrained, Pretraining
from dimat.experiment.setup import Setup, make_setup

FIVE = Collectives(SINGLE_PROCESS.transport(5), 5)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("agents", [1, 2, 5, 16])
def test_blocks_are_all_agents_in_order_and_differ_by_one_at_most(agents: int, size: int) -> None:
    blocks = [block(agents, rank, size) for rank in range(size)]
    assert [agent for own in blocks for agent in own] == [*range(agents)]
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert 0 in blocks[0]


def test_a_tree_comes_out_of_a_message_as_it_went_in() -> None:
    tree = {
        0: [1.5, float("-inf"), None, True],
        "text": "ü",
        "deep": {3: {"x": torch.arange(6).view(2, 3).T, "none": []}},
        "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
    }
    found = tree_of(as_message(tree))
    assert [*found] == [*tree]
    assert found[0] == tree[0]
    assert found["deep"][3]["x"] is tree["deep"][3]["x"]  # type: ignore[index]
    assert found["empty"].dtype == torch.bfloat16
    assert str(tree_of(as_message(float("nan")))) == "nan"


def test_a_copy_of_a_tree_shares_no_memory_with_it() -> None:
    own = {"x": torch.ones(2, requires_grad=True), 3: [1, ("a", {"y": torch.zeros(2)})]}
    twin = copied(own)
    assert plain(twin)[3][1][1]["y"] is twin[3][1][1]["y"]
    assert (type(twin[3][1]), type(plain(twin)[3][1])) == (tuple, list)
    assert torch.equal(twin["x"], own["x"])
    twin["x"].add_(1)
    twin[3][1][1]["y"].add_(1)
    assert own["x"].tolist() == [1, 1]  # type: ignore[union-attr]
    assert own[3][1][1]["y"].tolist() == [0, 0]  # type: ignore[index]


def test_what_is_no_tree_is_refused_by_name() -> None:
    with pytest.raises(StructureError, match="'/own/1' is ndarray: no number, text or tensor"):
        as_message({"own": [1, np.zeros(2)]})


def test_all_is_gathered_in_order_of_agents_and_each_hears_its_own() -> None:
    assert FIVE.gather({i: {"own": i} for i in range(5)}) == [{"own": i} for i in range(5)]
    assert FIVE.scatter({i: [i] for i in range(5)}) == {i: [i] for i in range(5)}
    assert FIVE.tell({"round": None}) == {"round": None}


@pytest.mark.parametrize("values", [[False] * 5, [False, False, True, False, False], [True] * 5])
def test_any_is_true_if_it_is_of_one(values: list[bool]) -> None:
    assert FIVE.any(values) == any(values)


@pytest.fixture(scope="module")
def setup() -> Setup:
    return make_setup(replace(SMALL, agents=3, pretrain_epochs=3))


class Counted(Silent):
    """An observer that counts epochs, and stops at one."""

    def __init__(self, last: int = 10**6) -> None:
        self.epochs, self.last = 0, last

    def advance(self, steps: int = 1) -> None:
        self.epochs += steps
        if self.epochs >= self.last:
            raise KeyboardInterrupt


def pretrained(setup: Setup, store: CheckpointFolder, observer: Counted) -> list[Pretrained]:
    three = Collectives(SINGLE_PROCESS.transport(3), 3)
    found = Pretraining(setup, three, observer, store).run()
    assert [*found] == [0, 1, 2]
    return [*found.values()]


def check_equal(found: list[Pretrained], expected: list[Pretrained]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.snapshot.state, b.snapshot.state, rtol=0, atol=0)
        assert a.train_loss == b.train_loss
        assert a.snapshot.counters["epochs"] == b.snapshot.counters["epochs"] == 3


def test_pre_training_goes_on_from_the_last_epoch_that_was_kept(
    tmp_path: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrained(setup, CheckpointFolder(tmp_path / "whole", "epoch"), Counted())
    monkeypatch.setattr(pretrain, "_BETWEEN_S", 0.0)
    store = CheckpointFolder(tmp_path / "stopped", "epoch", 1)
    with pytest.raises(KeyboardInterrupt):
        pretrained(setup, store, Counted(last=8))  # two epochs of three agents, and two more
    assert store.numbers() == [6]
    rest = Counted()
    check_equal(pretrained(setup, store, rest), whole)
    assert rest.epochs == 9  # six of them were told at once
    again = Counted()
    check_equal(pretrained(setup, store, again), whole)
    assert store.numbers() == [9]


def test_agents_that_were_kept_at_different_epochs_all_come_to_the_last(
    tmp_path: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "_BETWEEN_S", 0.0)
    every = CheckpointFolder(tmp_path / "every", "epoch", 9)
    whole = pretrained(setup, every, Counted())
    early, late = every.read(3), every.read(9)
    for known in ([late, early, early], [late, early]):
        tensors = {
            name: value
            for i, own in enumerate(known)
            for name, value in own.tensors.items()
            if name.startswith(f"{i}/")
        }
        agents = [own.meta["agents"][i] for i, own in enumerate(known)]
        store = CheckpointFolder(tmp_path / f"ragged-{len(known)}", "epoch", 1)
        store.write(Checkpoint(4, {"agents": agents}, tensors))
        check_equal(pretrained(setup, store, Counted()), whole)
