"""The optimizer's memory moves exactly as the parameters do."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.analyses import analyze
from tests.tiers import tiers
from torch import Tensor, nn

from dimat.errors import StructureError
from dimat.merging import permute_optimizer, reset_optimizer
from dimat.merging.optimizer import (
    flat_memory,
    load_memory,
    memory_of,
    mix_memory,
    nested_memory,
)
from dimat.merging.remembered import BEGIN_EMPTY, new_memory
from dimat.models import build_model
from dimat.symmetry import Permutation, Symmetry

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


@pytest.fixture(
    scope="module",
    params=tiers(["mlp", "resnet20", "resnet20-group"], slow=["resnet20", "resnet20-group"]),
)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Symmetry]:
    name, _, norm = request.param.partition("-")
    torch.manual_seed(0)
    shape = {"in_channels": 1, "num_classes": 3, "image_size": (4, 4)}
    settings = {"width": 0.25, "norm": norm or "batch"}
    model = build_model(name, **shape, **settings).double()  # type: ignore[arg-type]
    return model, analyze(model, (torch.zeros(2, 1, 4, 4, dtype=torch.float64),)).symmetry


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, steps: int = 3) -> None:
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(6, 1, 4, 4, generator=random, dtype=torch.float64)
        y = torch.randint(3, (6,), generator=random)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def trained(network: tuple[nn.Module, Symmetry], name: str) -> tuple[nn.Module, Any, Permutation]:
    model, symmetry = copy.deepcopy(network[0]), network[1]
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 1)
    return model, optimizer, symmetry.random(torch.Generator().manual_seed(4))


def memories(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Kind of memory -> parameter -> a copy of its value."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found.setdefault(kind, {})[name] = value.clone()
    return found


@pytest.mark.parametrize("name", ["momentum", "adam", "amsgrad"])
def test_each_memory_moves_as_the_symmetry_moves_the_parameters(
    network: tuple[nn.Module, Symmetry], name: str
) -> None:
    model, optimizer, p = trained(network, name)
    symmetry, before = network[1], memories(model, optimizer)
    permute_optimizer(optimizer, model, lambda entries: symmetry.apply(p, entries))
    after = memories(model, optimizer)
    assert set(after) == set(before)
    moved = 0
    for kind, values in before.items():
        expected = values if kind == "step" else symmetry.apply(p, values)
        torch.testing.assert_close(after[kind], expected, rtol=0, atol=0)
        moved += sum(not torch.equal(after[kind][k], v) for k, v in values.items())
    assert moved > 0


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_training_on_in_another_unit_order_is_the_same_training(
    network: tuple[nn.Module, Symmetry], name: str
) -> None:
    model, optimizer, p = trained(network, name)
    symmetry = network[1]
    twin = copy.deepcopy(model)
    twin.load_state_dict(symmetry.apply(p, model.state_dict()))
    twin_optimizer = OPTIMIZERS[name](twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    permute_optimizer(twin_optimizer, twin, lambda entries: symmetry.apply(p, entries))
    train(model, optimizer, 2)
    train(twin, twin_optimizer, 2)
    torch.testing.assert_close(
        dict(twin.state_dict()), symmetry.apply(p, model.state_dict()), rtol=1e-6, atol=1e-8
    )


def test_a_memory_left_behind_would_be_another_training(
    network: tuple[nn.Module, Symmetry],
) -> None:
    """The control: the law above can fail."""
    model, optimizer, p = trained(network, "momentum")
    symmetry = network[1]
    twin = copy.deepcopy(model)
    twin.load_state_dict(symmetry.apply(p, model.state_dict()))
    twin_optimizer = OPTIMIZERS["momentum"](twin.parameters())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 2)
    train(twin, twin_optimizer, 2)
    expected = symmetry.apply(p, model.state_dict())
    gap = max(float((twin.state_dict()[k] - expected[k]).abs().max()) for k in expected)
    assert gap > 1e-4


def test_permuting_there_and_back_changes_nothing(network: tuple[nn.Module, Symmetry]) -> None:
    model, optimizer, p = trained(network, "adam")
    symmetry, before = network[1], memories(model, optimizer)
    for q in (p, symmetry.inverse(p)):
        permute_optimizer(optimizer, model, lambda entries, q=q: symmetry.apply(q, entries))
    torch.testing.assert_close(memories(model, optimizer), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", BEGIN_EMPTY)
def test_the_memory_of_an_optimizer_that_begins_empty_is_that_of_a_new_one(
    kind: type[torch.optim.Optimizer],
) -> None:
    for settings in ({}, {"weight_decay": 0.1}, {"momentum": 0.9}, {"amsgrad": True}):
        if settings.keys() <= inspect.signature(kind).parameters.keys():
            made = kind([nn.Parameter(torch.ones(3))], lr=0.1, **settings)
            assert made.state == new_memory(made) == {}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_was_reset_trains_as_a_new_one(
    network: tuple[nn.Module, Symmetry], name: str
) -> None:
    model, optimizer, _ = trained(network, name)
    twin = copy.deepcopy(model)
    reset_optimizer(optimizer)
    train(model, optimizer, 3)
    train(twin, OPTIMIZERS[name](twin.parameters()), 3)
    torch.testing.assert_close(dict(model.state_dict()), dict(twin.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["momentum", "adam", "amsgrad"])
def test_a_memory_that_is_read_and_loaded_again_changes_nothing(
    network: tuple[nn.Module, Symmetry], name: str
) -> None:
    model, optimizer, _ = trained(network, name)
    before, read = memories(model, optimizer), memory_of(optimizer, model)
    assert {k: set(v) for k, v in read.items()} == {
        k: set(v) for k, v in before.items() if k != "step"
    }
    for entries in read.values():
        for value in entries.values():
            value.add_(0)  # a copy: nothing the optimizer has is changed
    load_memory(optimizer, model, nested_memory(flat_memory(read)))
    torch.testing.assert_close(memories(model, optimizer), before, rtol=0, atol=0)


def test_mixing_memories_is_the_weighted_mean_and_keeps_step_counters(
    network: tuple[nn.Module, Symmetry],
) -> None:
    model, optimizer, _ = trained(network, "adam")
    other_model, other, _ = trained(network, "adam")
    train(other_model, other, 9, steps=4)
    ours, theirs = memory_of(optimizer, model), memory_of(other, other_model)
    steps = memories(model, optimizer)["step"]
    load_memory(optimizer, model, mix_memory([ours, theirs], [0.75, 0.25]))
    after = memories(model, optimizer)
    for kind, entries in ours.items():
        expected = {k: 0.75 * v + 0.25 * theirs[kind][k] for k, v in entries.items()}
        torch.testing.assert_close(after[kind], expected)
    assert all(float(v.min()) >= 0 for v in after["exp_avg_sq"].values())
    torch.testing.assert_close(after["step"], steps, rtol=0, atol=0)


def test_who_has_no_memory_yet_is_left_out_and_stays_without() -> None:
    full = {"exp_avg": {"w": torch.tensor([2.0])}}
    other = {"exp_avg": {"w": torch.tensor([6.0])}}
    assert mix_memory([{}, full], [0.5, 0.5]) == {}
    found = mix_memory([full, {}, other], [0.25, 0.5, 0.25])
    torch.testing.assert_close(found["exp_avg"]["w"], torch.tensor([4.0]))
    found = mix_memory([full, {}], [0.0, 1.0])
    torch.testing.assert_close(found["exp_avg"]["w"], torch.tensor([2.0]))


def test_a_message_that_is_no_memory_is_refused() -> None:
    with pytest.raises(StructureError, match="'w' is no entry of an optimizer's memory"):
        nested_memory({"w": torch.zeros(1)})


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_of_a_parameter_that_is_one_number_the_memory_is_kept_and_no_step_counter(
    kind: Callable[..., torch.optim.Optimizer],
) -> None:
    """A counter has that parameter's shape, too."""
    model = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(2.0))})
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(model.parameters(), lr=0.1, **settings)
    (3 * model["scale"]).backward()
    optimizer.step()
    found = memory_of(optimizer, model)
    names = {"momentum_buffer"} if settings else {"exp_avg", "exp_avg_sq"}
    assert found.keys() == names
    assert all(own.keys() == {"scale"} for own in found.values())
