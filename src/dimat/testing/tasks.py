"""What every task keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dimat.tasks import TASKS, LabelTask, LikelihoodTask, Task
from dimat.testing.laws import keeps

_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)  # losses are sums in float32


@dataclass(frozen=True)
class TaskExample:
    """Some samples of a task.

    Args:
        targets: Their targets, as the task takes them.
        perfect: Outputs that meet them as well as can be.
        given: The targets as they were given.
    """

    targets: Tensor
    perfect: Tensor
    given: NDArray[np.generic]

    def wrong(self, seed: int = 0) -> Tensor:
        """Outputs with noise as large as they are."""
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.perfect.shape, generator=random)
        return self.perfect + noise * self.perfect.std().clamp_min(1)


def check_task(task: Any, targets: Any, perfect: Tensor) -> None:
    """Check that a task keeps the laws that dimat's tasks keep.

    Args:
        task: As it is registered: an object, or its class; or its name.
        targets: An array or a tensor of the targets of some samples, four at least.
        perfect: Outputs that meet them, such as logits of 20 for what is true and -20 for the rest.

    Raises:
        AssertionError: Naming the law that is broken.
        ConfigError: If it cannot be registered.
        DataError: If the task refuses the targets.
    """
    own: Task = TASKS[task] if isinstance(task, str) else TASKS.prepared("mine", task)
    given = np.asarray(targets)
    keeps(LAWS, own, TaskExample(own.targets(given, "targets"), perfect, given))


def values(task: Task, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
    """The loss and the metrics of one batch."""
    return task.measure(task.totals(outputs, targets))


def metrics_have_names(task: Task, example: TaskExample) -> None:
    """The first metric is the main one; each has a name of its own, and a value beside the loss."""
    names = [metric.name for metric in task.metrics]
    assert names, "there is none"
    assert all(name.isidentifier() for name in names), f"{names} are no words"
    assert len({*names, "loss"}) == len(names) + 1, f"{names} and loss are not all different"
    found = values(task, example.perfect, example.targets)
    assert set(found) == {*names, "loss"}, f"it measures {sorted(found)}"


def targets_stay(task: Task, example: TaskExample) -> None:
    """Targets have the samples first, and are their own targets; what is given is not changed."""
    before = example.given.copy()
    again = task.targets(example.targets.numpy(), "targets")
    torch.testing.assert_close(again, example.targets, rtol=0, atol=0)
    task.targets(example.given, "targets")
    assert np.array_equal(before, example.given), "the array was changed"
    assert len(example.targets) == len(example.given)
    if task.has_classes:
        assert example.targets.shape == (len(example.given),), "a class is one number"
        assert example.targets.dtype == torch.int64, "a class is an int64"


def outputs_have_their_shape(task: Task, example: TaskExample) -> None:
    """Outputs have the shape that the task says, of a batch as of all."""
    width = task.num_outputs(example.targets)
    for count in (len(example.targets), 2):
        said = task.output_shape(example.targets[:count], width)
        assert said == tuple(example.perfect[:count].shape), f"it says {said}"


def totals_add(task: Task, example: TaskExample) -> None:
    """Totals of batches add up to those of all, on one axis in float64; 0 of no samples."""
    outputs, y = example.wrong(), example.targets
    whole = task.totals(outputs, y)
    assert whole.dtype == torch.float64
    assert whole.dim() == 1
    for size in (1, 3):
        parts = zip(torch.split(outputs, size), torch.split(y, size), strict=True)
        added = torch.stack([task.totals(*part) for part in parts]).sum(0)
        _close(added, whole)
    assert not task.totals(outputs[:0], y[:0]).any()


def order_does_not_matter(task: Task, example: TaskExample) -> None:
    """The order of the samples does not matter."""
    outputs, y = example.wrong(), example.targets
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    found, other = (task.totals(x, t) for x, t in ((outputs, y), (outputs[order], y[order])))
    _close(found, other)


def perfect_is_best(task: Task, example: TaskExample) -> None:
    """Perfect outputs have the best value of every metric, and the least loss."""
    best = values(task, example.perfect, example.targets)
    for seed in range(3):
        other = values(task, example.wrong(seed), example.targets)
        for metric in task.metrics:
            pair = best[metric.name], other[metric.name]
            assert metric.best(pair) == pair[0], f"{metric.name}: {pair[1]} beats {pair[0]}"
        assert best["loss"] <= other["loss"], "loss"
    other = values(task, example.wrong(), example.targets)
    main = task.metrics[0].name
    assert best[main] != other[main], f"{main} is the same of perfect outputs and others"


def the_loss_is_that_of_training(task: Task, example: TaskExample) -> None:
    """The measured loss is that of training: a scalar whose gradient leads to a smaller one."""
    outputs = example.wrong().requires_grad_()
    loss = task.loss(outputs, example.targets)
    assert loss.dim() == 0, f"it has shape {tuple(loss.shape)}"
    measured = values(task, outputs.detach(), example.targets)["loss"]
    _close(float(loss.detach()), measured)
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert torch.isfinite(gradient).all(), "its gradient is not finite"
    after = task.loss(outputs.detach() - 1e-2 * gradient, example.targets)
    assert float(after) < float(loss.detach())


def nothing_is_nan(task: Task, example: TaskExample) -> None:
    """Of no samples every number is NaN."""
    found = values(task, example.perfect[:0], example.targets[:0])
    assert all(math.isnan(value) for value in found.values()), f"it measures {dict(found)}"


def one_is_an_ensemble(task: Task, example: TaskExample) -> None:
    """An ensemble of one model, or of its copies, is that model, and the order does not matter."""
    first, second = example.wrong(), example.wrong(1)
    alone = values(task, first, example.targets)
    for copies in (1, 3):
        pooled = task.pooled([first] * copies)
        assert pooled.shape == first.shape, f"it has shape {tuple(pooled.shape)}"
        found = values(task, pooled, example.targets)
        for name, value in alone.items():
            _close(found[name], value, msg=name)
    one, other = task.pooled([first, second]), task.pooled([second, first])
    _close(one, other)


def information_is_of_each_prediction(task: Task, example: TaskExample) -> None:
    """Where a task has a likelihood, a prediction's root of the information is linear, its own."""
    if not isinstance(task, LikelihoodTask):
        return
    outputs = example.wrong().requires_grad_()
    rows = task.predictions(outputs)
    assert rows.dim() == 2, f"predictions have shape {tuple(rows.shape)}"
    assert rows.requires_grad, "predictions are cut off from the outputs"
    rows = rows.detach().double()
    random = torch.Generator().manual_seed(1)
    u, v = (torch.randn(rows.shape, generator=random, dtype=torch.float64) for _ in range(2))
    root = partial(task.information_root, rows)
    _close(root(2 * u - v), 2 * root(u) - root(v))
    _close(task.information_root(rows[:2], u[:2]), root(u)[:2])
    samples = task.predictions(outputs.detach()[:2]).double()
    _close(samples, rows[: len(samples)])


def label_shares_are_shares(task: Task, example: TaskExample) -> None:
    """Where a task knows labels, a sample's shares are its own, and sum to 1 if it has any."""
    if not isinstance(task, LabelTask):
        return
    width = task.num_outputs(example.targets)
    shares = task.label_shares(example.targets, width)
    assert shares.dtype == torch.float64
    assert shares.dim() == 2, f"they have shape {tuple(shares.shape)}"
    assert len(shares) == len(example.targets), f"there are {len(shares)} rows"
    assert bool((shares >= 0).all()), "one is negative"
    sums = shares.sum(1)
    _close(sums, torch.where(sums > 0, 1.0, 0.0).double())
    _close(task.label_shares(example.targets[:2], width), shares[:2])


LAWS: tuple[Callable[[Task, TaskExample], None], ...] = (
    metrics_have_names,
    targets_stay,
    outputs_have_their_shape,
    totals_add,
    order_does_not_matter,
    perfect_is_best,
    the_loss_is_that_of_training,
    nothing_is_nan,
    one_is_an_ensemble,
    information_is_of_each_prediction,
    label_shares_are_shares,
)
