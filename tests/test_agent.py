"""An agent in training: gradients here and elsewhere, batches that go on, streams of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dimat.data import Shard
from dimat.experiment.config.config import OptimizerConfig
from dimat.experiment.setup import make_optimizer
from dimat.losses import loss_of_counts
from dimat.merging import permute_optimizer
from dimat.symmetry import analyze
from dimat.topology import Topology, build_topology
from dimat.training.trainer import LocalTrainer, MergeSettings


class Tied(nn.Module):
    """BatchNorm, dropout, one weight used twice, one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.unused = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.drop(torch.relu(self.norm(self.first(x.flatten(1)))))
        out: torch.Tensor = self.head(torch.relu(self.second(h)))
        return out


def agent(index: int = 0, seed: int = 0) -> LocalTrainer:
    torch.manual_seed(3)
    model = Tied()
    random = torch.Generator().manual_seed(index)
    images = torch.randint(0, 256, (50, 4, 4, 1), generator=random, dtype=torch.uint8)
    labels = torch.arange(50) % 3
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    alone = build_topology("ring", 1)
    assert isinstance(alone, Topology)
    shard = Shard(images, labels)
    merging = MergeSettings("local", alone, lambda: analyze(model, (torch.zeros(1, 4, 4, 1),)))
    return LocalTrainer(index, model, optimizer, schedule, shard, alone, seed, 8, merging)


def test_the_gradient_elsewhere_at_ones_own_state_is_ones_own() -> None:
    """The same batch and the same dropout; running statistics are left alone."""
    me = agent()
    before = me.state()
    own = me.gradient()
    after = me.state()
    torch.manual_seed(99)
    torch.testing.assert_close(me.gradient_at(before), own)
    torch.testing.assert_close(me.state(), after, rtol=0, atol=0)
    assert "unused" not in own
    assert bool((after["norm.running_mean"] != before["norm.running_mean"]).any())


def test_the_gradient_elsewhere_is_of_the_agents_own_loss() -> None:
    me = agent()
    me.local_loss = loss_of_counts(torch.tensor([1, 20, 90]), "adjusted")
    before = me.state()
    own = me.gradient()
    torch.testing.assert_close(me.gradient_at(before), own)
    plain = agent().gradient()
    assert any(bool((own[name] != plain[name]).any()) for name in own)


def test_the_gradient_elsewhere_is_that_of_an_agent_who_is_there() -> None:
    me, other = agent(), agent()
    there = {k: v + 0.1 if v.is_floating_point() else v for k, v in me.state().items()}
    there["second.weight"] = there["first.weight"]
    me.gradient()
    other.load(there)
    torch.testing.assert_close(me.gradient_at(there), other.gradient())


def test_a_step_is_the_optimizers_at_a_share_of_its_rate() -> None:
    me, other = agent(), agent()
    gradient = me.gradient()
    me.update(gradient, 0.5)
    other.gradient()
    for group in other.optimizer.param_groups:
        group["lr"] *= 0.5
    other.update(gradient)
    for key, value in me.state().items():
        if "running" not in key:
            torch.testing.assert_close(value, other.state()[key], rtol=0, atol=0)
    assert me.lr == 0.1


def test_batches_go_on_where_the_counters_say() -> None:
    whole, first = agent(), agent()
    losses = []
    for _ in range(15):  # six batches are an epoch
        whole.update(whole.gradient())
        losses.append(whole.loss())
    for _ in range(7):
        first.update(first.gradient())
        first.loss()
    assert (first.steps, first.epochs) == (7, 1)
    second = agent()
    second.load(first.state())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.steps, second.epochs = first.steps, first.epochs
    for k in range(7, 15):
        second.update(second.gradient())
        assert second.loss() == losses[k]
    assert (second.steps, second.epochs) == (whole.steps, whole.epochs) == (15, 2)


def test_agents_and_seeds_have_streams_of_their_own() -> None:
    drawn = {agent(i, seed).gradient()["head.bias"].sum().item() for i in (0, 1) for seed in (0, 1)}
    assert len(drawn) == 4


def test_the_loss_is_the_mean_since_it_was_last_asked_for() -> None:
    me = agent()
    me.gradient()
    one = me.loss()
    me.gradient()
    two = me.loss()
    assert one != two
    assert me.loss() != me.loss()  # NaN: there was no step
    other = agent()
    other.gradient()
    other.gradient()
    assert other.loss() == pytest.approx((one + two) / 2)


def test_no_gradient_is_kept_while_others_have_their_turn() -> None:
    me = agent()
    gradient = me.gradient()
    assert all(p.grad is None for p in me.model.parameters())
    me.update(gradient)
    assert all(p.grad is None for p in me.model.parameters())
    assert all(bool(g.isfinite().all()) for g in gradient.values())  # the method's to keep


def stepped(optimizer: torch.optim.Optimizer, model: nn.Linear, *gradients: torch.Tensor) -> None:
    for gradient in gradients:
        model.weight.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_takes_the_steps_of_its_definition(name: str) -> None:
    """Rate and weight decay are those of the settings."""
    random = torch.Generator().manual_seed(1)
    ours = nn.Linear(5, 3, bias=False).double()
    theirs = copy.deepcopy(ours)
    gradients = torch.randn(6, 3, 5, generator=random, dtype=torch.float64)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    config = OptimizerConfig(name=name, lr=0.01, weight_decay=0.1)
    stepped(make_optimizer(config, list(ours.parameters())), ours, *gradients)
    stepped(kind(theirs.parameters(), 0.01, weight_decay=0.1), theirs, *gradients)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["sgd", "msgd", "adam", "adamw"])
def test_who_moved_its_units_and_its_memory_takes_the_same_step_in_the_new_order(
    name: str,
) -> None:
    """Kept, restored, moved: in every optimizer of a run."""
    random = torch.Generator().manual_seed(2)
    model = nn.Linear(5, 4, bias=False)
    first, second = torch.randn(2, 4, 5, generator=random)
    config = OptimizerConfig(name=name, lr=0.01, weight_decay=0.1)
    optimizer = make_optimizer(config, list(model.parameters()))
    stepped(optimizer, model, first)
    twin = copy.deepcopy(model)
    again = make_optimizer(config, list(twin.parameters()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    order = torch.tensor([2, 0, 3, 1])
    permute_optimizer(again, twin, lambda own: {k: v[order] for k, v in own.items()})
    with torch.no_grad():
        twin.weight.copy_(twin.weight[order])
    stepped(optimizer, model, second)
    stepped(again, twin, second[order])
    torch.testing.assert_close(twin.weight, model.weight[order], rtol=1e-6, atol=1e-7)
