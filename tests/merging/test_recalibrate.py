"""Recalibration touches running statistics, all of them, and nothing else."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dimat.merging import recalibrate
from dimat.models import build_model


def batches(count: int = 3, seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(10, 3, 8, 8, generator=random, dtype=torch.float64) for _ in range(count)]


def model(name: str = "resnet20", norm: str = "batch") -> nn.Module:
    torch.manual_seed(0)
    settings = {"in_channels": 3, "num_classes": 4, "image_size": (8, 8)}
    return build_model(name, **settings, width=0.25, norm=norm).double()  # type: ignore[arg-type]


def test_after_one_batch_a_model_answers_in_eval_mode_as_in_training_mode() -> None:
    """Both normalize by the same numbers, but for n - 1 against n in the variance."""
    net = model()
    (x,) = batches(1)
    expected = copy.deepcopy(net).train()(x)
    counts: dict[nn.Module, int] = {}
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_hook(
            lambda m, args, _: counts.update({m: args[0].numel() // args[0].shape[1]})
        )
    assert recalibrate(net, [x])
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.mul_((counts[norm] - 1) / counts[norm])
    torch.testing.assert_close(net.eval()(x), expected)


def test_the_result_depends_on_the_batches_and_not_on_the_past() -> None:
    net, other = model(), model()
    other(torch.randn(20, 3, 8, 8, dtype=torch.float64) * 9 + 5)
    before = [b for k, b in other.state_dict().items() if k.endswith("num_batches_tracked")]
    for each in (net, other):
        recalibrate(each, batches())
    for key, value in net.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(other.state_dict()[key], value, rtol=0, atol=0)
    assert all(int(count) == 1 for count in before)


@pytest.mark.parametrize("sizes", [[90], [30, 30, 30], [80, 8, 2], [1, 89]])
def test_the_statistics_are_those_of_all_batches_together(sizes: list[int]) -> None:
    """What lies between the batches counts, and a short one counts for less: as NumPy has it."""
    net = nn.Sequential(nn.BatchNorm2d(3)).double()
    x = torch.cat([5 * i + (i + 1) * x for i, x in enumerate(batches(9))])
    recalibrate(net, x.split(sizes))
    values = x.movedim(1, 0).flatten(1).numpy()
    np.testing.assert_allclose(net[0].running_mean.numpy(), values.mean(1))
    np.testing.assert_allclose(net[0].running_var.numpy(), values.var(1, ddof=1))


def test_a_graph_compiled_before_is_recalibrated_all_the_same() -> None:
    net, other = model("cnn").eval(), model("cnn").eval()
    compiled = torch.compile(net, backend="eager")
    compiled(batches(1)[0])
    recalibrate(compiled, batches())
    recalibrate(other, batches())
    torch.testing.assert_close(dict(net.state_dict()), dict(other.state_dict()))


def test_a_norm_that_no_batch_reaches_stays_as_it_was() -> None:
    net = nn.ModuleDict({"used": nn.BatchNorm2d(3), "left": nn.BatchNorm2d(3)}).double()
    net["left"].running_var.fill_(7.0)
    assert recalibrate(net, batches(), net["used"])
    assert net["left"].running_var.tolist() == [7.0] * 3
    assert float(net["used"].running_var[0]) != 1.0


def test_only_running_statistics_change() -> None:
    net = model("cnn")
    before = copy.deepcopy(net.state_dict())
    recalibrate(net, batches())
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if "running_mean" in k or "running_var" in k}
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_every_module_is_in_its_mode_again(training: bool) -> None:
    net = model("cnn").train(training)
    net.features[1].train(not training)
    modes = [m.training for m in net.modules()]
    recalibrate(net, batches())
    assert [m.training for m in net.modules()] == modes


def test_layers_that_keep_no_statistics_are_left_alone() -> None:
    assert not recalibrate(model(norm="group"), batches())
    assert not recalibrate(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), batches())


def test_a_dropout_layer_drops_nothing() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3)).double()
    recalibrate(net, batches())
    mean = torch.cat(batches()).mean((0, 2, 3))
    torch.testing.assert_close(net[1].running_mean, mean)


def test_later_training_updates_the_statistics_as_before() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.25)).double()
    recalibrate(net, batches())
    mean = net[0].running_mean.clone()
    x = batches(1, seed=5)[0]
    net.train()(x)
    expected = 0.75 * mean + 0.25 * x.mean((0, 2, 3))
    torch.testing.assert_close(net[0].running_mean, expected)


def test_batches_of_any_iterable_are_used_once() -> None:
    net, other = model("cnn"), model("cnn")
    recalibrate(net, iter(batches()))
    recalibrate(other, batches())
    torch.testing.assert_close(dict(net.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


class Frozen(nn.Sequential):
    """Its first norm stays in eval mode, as for fine-tuning on small batches."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self[0].eval()
        return self


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_that_stays_in_eval_mode_keeps_its_statistics(training: bool) -> None:
    net = Frozen(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).double().train(training)
    modes = [m.training for m in net.modules()]
    assert recalibrate(net, batches())
    assert [m.training for m in net.modules()] == modes
    frozen, free = net[0], net[1]
    torch.testing.assert_close(frozen.running_mean, torch.zeros(3).double(), rtol=0, atol=0)
    torch.testing.assert_close(frozen.running_var, torch.ones(3).double(), rtol=0, atol=0)
    mean = frozen(torch.cat(batches())).mean((0, 2, 3))
    torch.testing.assert_close(free.running_mean, mean)
    assert not recalibrate(Frozen(nn.BatchNorm2d(3)), batches())


def test_a_norm_in_eval_mode_within_a_model_in_training_mode_keeps_its_statistics() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).double().train()
    net[0].eval()
    assert recalibrate(net, batches())
    torch.testing.assert_close(net[0].running_mean, torch.zeros(3).double(), rtol=0, atol=0)
    assert bool((net[1].running_mean != 0).all())
